_base_ = './_base_/mask_rcnn_nuclei.py'

model = dict(
    backbone=dict(_delete_=True, type='mmfasternet.FasterNet', arch='t0'), neck=dict(in_channels=[40, 80, 160, 320]))
