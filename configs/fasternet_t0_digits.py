# FasterNet-T0 on handwritten digits: a pre-training of minutes on a CPU, to start detectors from.
_base_ = 'mmpretrain::_base_/default_runtime.py'
custom_imports = dict(
    imports=['mmfasternet.models', 'mmfasternet.models.heads', 'mmfasternet.datasets.digits'],
    allow_failed_imports=False)

max_epochs = 6
data_preprocessor = dict(num_classes=10, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmfasternet.FasterNet', arch='t0', out_indices=(3, ), out_norm=False),
    head=dict(
        type='mmfasternet.FasterNetHead',
        num_classes=10,
        in_channels=320,
        act_cfg=dict(type='GELU'),
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')))

train_pipeline = [
    dict(type='Resize', scale=(64, 64), interpolation='bicubic'),
    dict(type='RandomCrop', crop_size=64, padding=8),
    dict(type='PackInputs', meta_keys=('img_id', ))
]
test_pipeline = [
    dict(type='Resize', scale=(64, 64), interpolation='bicubic'),
    dict(type='PackInputs', meta_keys=('img_id', ))
]
train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='mmfasternet.Digits', split='train', pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=120,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='mmfasternet.Digits', split='test', pipeline=test_pipeline, test_mode=True))
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator

train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=max_epochs)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=0, end=max_epochs, convert_to_iter_based=True)
]
auto_scale_lr = dict(base_batch_size=32)
default_hooks = dict(logger=dict(interval=45), checkpoint=dict(max_keep_ckpts=1))
