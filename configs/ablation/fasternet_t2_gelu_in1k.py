# Table 5, GELU instead of ReLU.
_base_ = '../fasternet_t2_in1k.py'

model = dict(backbone=dict(act_cfg=dict(type='GELU')), head=dict(act_cfg=dict(type='GELU')))
