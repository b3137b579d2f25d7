# FasterNet-T0 on a few thousand of your own photos, one folder per class: minutes on a CPU.
# A pre-training to start detectors from.
_base_ = './fasternet_t0_in1k.py'

data_root = 'data/photos/'
max_epochs = 30
data_preprocessor = dict(num_classes=None)  # not used without mixing
model = dict(head=dict(num_classes=24), train_cfg=dict(_delete_=True))

# Small images, and no mixing of images, because the schedule is short.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=112, crop_ratio_range=(0.25, 1.0), backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='ColorJitter', brightness=0.3, contrast=0.3, saturation=0.3, backend='pillow'),
    dict(type='PackInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=144, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=128),
    dict(type='PackInputs')
]
dataset = dict(_delete_=True, type='CustomDataset', data_root=data_root)
train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(**dataset, data_prefix='train', pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=32,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(**dataset, data_prefix='val', pipeline=test_pipeline))
test_dataloader = val_dataloader

train_cfg = dict(max_epochs=max_epochs, val_interval=10)
optim_wrapper = dict(_delete_=True, type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=0, end=max_epochs, convert_to_iter_based=True)
]
custom_hooks = []
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))
auto_scale_lr = dict(base_batch_size=32)
