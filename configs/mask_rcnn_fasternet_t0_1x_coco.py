# The paper has no detector with FasterNet-T0: this is the recipe of S, with the stochastic depth of T0's pre-training.
_base_ = './_base_/mask_rcnn_fasternet_1x_coco.py'

model = dict(
    backbone=dict(
        arch='t0',
        drop_path_rate=0.0,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/JierunChen/FasterNet/releases/download/v1.0/'
            'fasternet_t0-epoch.281-val_acc1.71.9180.pth')),
    neck=dict(in_channels=[40, 80, 160, 320]))

optim_wrapper = dict(optimizer=dict(lr=2e-4))
