# Table 5, layer norm over the channels.
_base_ = '../fasternet_t0_in1k.py'

model = dict(backbone=dict(norm_cfg=dict(type='LN2d')))
