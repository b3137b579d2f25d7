# MobileNetV2.
_base_ = '../_base_/mask_rcnn_nuclei.py'

model = dict(
    backbone=dict(_delete_=True, type='MobileNetV2', out_indices=(1, 2, 4, 6), norm_eval=False),
    neck=dict(in_channels=[24, 32, 96, 320]))
