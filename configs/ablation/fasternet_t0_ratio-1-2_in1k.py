# Table 5, partial ratio 1/2. The paper also changes width and depth, to unpublished values: this config keeps T0's.
_base_ = '../fasternet_t0_in1k.py'

model = dict(backbone=dict(partial_ratio=1 / 2))
