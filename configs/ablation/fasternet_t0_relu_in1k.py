# Table 5, ReLU instead of GELU.
_base_ = '../fasternet_t0_in1k.py'

model = dict(backbone=dict(act_cfg=dict(type='ReLU', inplace=True)), head=dict(act_cfg=dict(type='ReLU')))
