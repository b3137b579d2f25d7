# timm's FasterNet-T0 through MMPretrain, as a control for our implementation.
_base_ = '../_base_/mask_rcnn_nuclei.py'
custom_imports = dict(imports=['mmpretrain.models'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.TIMMBackbone',
        model_name='fasternet_t0',
        features_only=True,
        out_indices=(0, 1, 2, 3)),
    neck=dict(in_channels=[40, 80, 160, 320]))
