# RetinaNet, for accuracy at a low latency. It is not in the paper; AdamW's learning rate is half of the Mask R-CNN's.
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['mmfasternet.models'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmfasternet.FasterNet',
        arch='t2',
        out_indices=(1, 2, 3),
        drop_path_rate=0.05,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/JierunChen/FasterNet/releases/download/v1.0/'
            'fasternet_t2-epoch.289-val_acc1.78.8860.pth')),
    neck=dict(in_channels=[192, 384, 768], start_level=0))

optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-4))
