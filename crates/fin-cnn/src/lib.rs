//! ResNet and EfficientNet image embedding models.
