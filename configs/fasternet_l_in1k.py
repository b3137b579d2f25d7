_base_ = './fasternet_m_in1k.py'

model = dict(
    backbone=dict(arch='l', drop_path_rate=0.3),
    head=dict(in_channels=1536),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.7), dict(type='CutMix', alpha=1.0)]))

optim_wrapper = dict(clip_grad=dict(max_norm=0.01))
