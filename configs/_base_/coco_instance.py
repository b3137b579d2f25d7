# COCO 2017 instances by MMDetection's settings; broken image files are named instead of half decoded.
_base_ = 'mmdet::_base_/datasets/coco_instance.py'

train_pipeline = _base_.train_pipeline
train_pipeline[0] = dict(type='mmfasternet.LoadImageFromFile', backend_args=None)
test_pipeline = _base_.test_pipeline
test_pipeline[0] = dict(type='mmfasternet.LoadImageFromFile', backend_args=None)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
