_base_ = './_base_/mask_rcnn_nuclei.py'

model = dict(
    backbone=dict(_delete_=True, type='mmfasternet.FasterNet', arch='s'), neck=dict(in_channels=[128, 256, 512, 1024]))
