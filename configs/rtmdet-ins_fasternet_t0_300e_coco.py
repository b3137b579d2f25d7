# RTMDet-Ins-s with a FasterNet-T0 backbone and MMDetection's recipe: boxes and masks in one stage.
_base_ = 'mmdet::rtmdet/rtmdet-ins_s_8xb32-300e_coco.py'
custom_imports = dict(imports=['mmfasternet.models'], allow_failed_imports=False)

model = dict(
    # FasterNet's weights expect RGB, RTMDet's BGR.
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    backbone=dict(
        _delete_=True,
        type='mmfasternet.FasterNet',
        arch='t0',
        out_indices=(1, 2, 3),
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/JierunChen/FasterNet/releases/download/v1.0/'
            'fasternet_t0-epoch.281-val_acc1.71.9180.pth')),
    neck=dict(in_channels=[80, 160, 320]))

auto_scale_lr = dict(base_batch_size=256)  # 8 GPUs with 32 images each; MMDetection's config inherits 16
