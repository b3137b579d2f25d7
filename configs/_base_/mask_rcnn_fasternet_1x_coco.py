# Mask R-CNN on COCO with the recipe of the paper's Table 7. Inherited from MMDetection's own 1x recipe:
# 12 epochs, linear warm-up over 500 iterations, steps at epochs 8 and 11, 2 images on each of 8 GPUs,
# shorter side 800 and longer side at most 1333.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py', 'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/schedules/schedule_1x.py', 'mmdet::_base_/default_runtime.py'
]
custom_imports = dict(imports=['mmfasternet.models'], allow_failed_imports=False)

model = dict(backbone=dict(_delete_=True, type='mmfasternet.FasterNet'))

optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', betas=(0.9, 0.999), weight_decay=1e-4))
