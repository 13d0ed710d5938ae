//! A pair of every class against the pairs of the others.

use burn::tensor::Tensor;

use serde::{Deserialize, Serialize};

use super::labelled::{LabelledBatch, LabelledLoss};
use burn::tensor::activation::log_softmax;
use std::collections::BTreeMap;

/// Cross-entropy of every anchor's positive among the positives of all classes, over one pair a
/// class, the first in the batch; logits are cosines (Sohn 2016, "Improved deep metric learning
/// with multi-class N-pair loss objective", equation 5, without the regulariser; `NPairsLoss` of
/// pytorch-metric-learning, whose dot product is of vectors scaled to unit length). A batch without
/// positive pairs has loss 0.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NPairsLoss {}

impl LabelledLoss for NPairsLoss {
    const NAME: &'static str = "n_pairs";

    fn refuses_memory(&self) -> Option<&'static str> {
        Some(
            "it takes a pair of every class of the batch, and their positives as negatives of each other",
        )
    }

    fn compute(&self, batch: &LabelledBatch<'_>) -> Tensor<1> {
        let (positive, _) = batch.pair_lists();
        // Classes in order, and the first pair of each.
        let mut firsts: BTreeMap<usize, [usize; 2]> = BTreeMap::new();
        for &[a, p] in &positive {
            firsts.entry(batch.labels()[a]).or_insert([a, p]);
        }
        if firsts.is_empty() {
            return batch.zero();
        }
        let unit = batch.unit();
        let [anchors, positives] = [0, 1].map(|side: usize| {
            unit.clone()
                .select(0, batch.indices(firsts.values().map(|pair| pair[side])))
        });
        let own = batch.indices(0..firsts.len()).reshape([firsts.len(), 1]);
        log_softmax(anchors.matmul(positives.transpose()), 1)
            .gather(1, own)
            .mean()
            .neg()
    }
}
