# The paper has no detector with FasterNet-T2: this is the recipe of S, with the stochastic depth of T2's pre-training.
_base_ = './_base_/mask_rcnn_fasternet_1x_coco.py'

model = dict(
    backbone=dict(
        arch='t2',
        drop_path_rate=0.05,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/JierunChen/FasterNet/releases/download/v1.0/'
            'fasternet_t2-epoch.289-val_acc1.78.8860.pth')),
    neck=dict(in_channels=[96, 192, 384, 768]))

optim_wrapper = dict(optimizer=dict(lr=2e-4))
