_base_ = './_base_/fasternet_in1k.py'

model = dict(
    backbone=dict(arch='t1', drop_path_rate=0.02),
    head=dict(in_channels=512, act_cfg=dict(type='GELU')),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.1), dict(type='CutMix', alpha=1.0)]))

# RandAugment of magnitude 3.
train_pipeline, last_train_pipeline = _base_.train_pipeline, _base_.last_train_pipeline
train_pipeline[3].magnitude_level = last_train_pipeline[3].magnitude_level = 3
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
custom_hooks = [
    dict(type='SwitchRecipeHook', schedule=[dict(action_epoch=281, train_pipeline=last_train_pipeline)])
]

optim_wrapper = dict(optimizer=dict(weight_decay=0.01))
