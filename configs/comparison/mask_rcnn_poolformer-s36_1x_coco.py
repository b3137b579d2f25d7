_base_ = './mask_rcnn_poolformer-s24_1x_coco.py'

model = dict(
    backbone=dict(
        arch='s36',
        init_cfg=dict(
            checkpoint='https://download.openmmlab.com/mmclassification/v0/poolformer/'
            'poolformer-s36_3rdparty_32xb128_in1k_20220414-d78ff3e8.pth')))
