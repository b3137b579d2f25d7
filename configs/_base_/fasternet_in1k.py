# Classification on ImageNet-1k with the recipe of the paper's Table 6, shared by all variants. The batch size is for 8
# GPUs.
_base_ = 'mmpretrain::_base_/default_runtime.py'
custom_imports = dict(imports=['mmfasternet.models', 'mmfasternet.models.heads'], allow_failed_imports=False)

data_preprocessor = dict(
    num_classes=1000, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)

model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmfasternet.FasterNet', out_indices=(3, ), out_norm=False),
    head=dict(
        type='mmfasternet.FasterNetHead',
        num_classes=1000,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.1), dict(type='CutMix', alpha=1.0)]))

# 192 pixels, and 224 for the last 20 epochs. OpenCV's images are BGR, and so is the mean used as a fill value.
rand_augment = dict(
    type='RandAugment',
    policies='timm_increasing',
    num_policies=2,
    total_level=10,
    magnitude_level=7,
    magnitude_std=0.5,
    hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic'))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=192, backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'), rand_augment,
    dict(type='PackInputs')
]
last_train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=224, backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'), rand_augment,
    dict(type='PackInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=248, edge='short', backend='pillow', interpolation='bicubic'),  # 224 / 0.9
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs')
]

train_dataloader = dict(
    batch_size=512,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='ImageNet', data_root='data/imagenet', split='train', pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=512,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='ImageNet', data_root='data/imagenet', split='val', pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator

train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    type='AmpOptimWrapper', loss_scale='dynamic', optimizer=dict(type='AdamW', lr=4e-3, betas=(0.9, 0.999)))
param_scheduler = [
    # Starts at 1e-6.
    dict(type='LinearLR', start_factor=2.5e-4, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=20, end=300, convert_to_iter_based=True)
]
custom_hooks = [
    dict(type='SwitchRecipeHook', schedule=[dict(action_epoch=281, train_pipeline=last_train_pipeline)])
]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='auto'))
auto_scale_lr = dict(base_batch_size=4096)
