_base_ = './_base_/fasternet_in1k.py'

model = dict(
    backbone=dict(arch='m', drop_path_rate=0.2),
    head=dict(in_channels=1152, act_cfg=dict(type='ReLU')),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.5), dict(type='CutMix', alpha=1.0)]))

train_dataloader = dict(batch_size=256)
optim_wrapper = dict(optimizer=dict(lr=2e-3, weight_decay=0.05), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=5e-4, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=20, end=300, convert_to_iter_based=True)
]
auto_scale_lr = dict(base_batch_size=2048)
