# Mask R-CNN with slim heads, for small data on a CPU; set the number of classes, the backbone and its channels.
# Norms in neck and heads, and one sample per RoI bin, let it train from scratch in minutes.
_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'

channels = 64
norm_cfg = dict(type='BN')

model = dict(
    neck=dict(out_channels=channels, norm_cfg=norm_cfg),
    rpn_head=dict(in_channels=channels, feat_channels=channels, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=channels, roi_layer=dict(sampling_ratio=1)),
        bbox_head=dict(
            type='ConvFCBBoxHead',
            num_shared_convs=2,
            num_shared_fcs=1,
            in_channels=channels,
            conv_out_channels=channels,
            fc_out_channels=256,
            norm_cfg=norm_cfg),
        mask_roi_extractor=dict(out_channels=channels, roi_layer=dict(sampling_ratio=1)),
        mask_head=dict(
            num_convs=2,
            in_channels=channels,
            conv_out_channels=channels,
            norm_cfg=norm_cfg)))
