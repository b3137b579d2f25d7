# The paper has no detector with FasterNet-T1: this is the recipe of S, with the stochastic depth of T1's pre-training.
_base_ = './_base_/mask_rcnn_fasternet_1x_coco.py'

model = dict(
    backbone=dict(
        arch='t1',
        drop_path_rate=0.02,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/JierunChen/FasterNet/releases/download/v1.0/'
            'fasternet_t1-epoch.291-val_acc1.76.2180.pth')),
    neck=dict(in_channels=[64, 128, 256, 512]))

optim_wrapper = dict(optimizer=dict(lr=2e-4))
