//! CLIP embedding models: texts and images in one space.

pub mod tokenizer;
