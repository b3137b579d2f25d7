_base_ = './_base_/mask_rcnn_nuclei.py'

model = dict(
    backbone=dict(_delete_=True, type='mmfasternet.FasterNet', arch='t1'), neck=dict(in_channels=[64, 128, 256, 512]))
