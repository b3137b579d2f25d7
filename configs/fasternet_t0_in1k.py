_base_ = './_base_/fasternet_in1k.py'

model = dict(
    backbone=dict(arch='t0'),
    head=dict(in_channels=320, act_cfg=dict(type='GELU')),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.05), dict(type='CutMix', alpha=1.0)]))

# No RandAugment.
train_pipeline, last_train_pipeline = _base_.train_pipeline, _base_.last_train_pipeline
del train_pipeline[3], last_train_pipeline[3]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
custom_hooks = [
    dict(type='SwitchRecipeHook', schedule=[dict(action_epoch=281, train_pipeline=last_train_pipeline)])
]

optim_wrapper = dict(optimizer=dict(weight_decay=0.005))
