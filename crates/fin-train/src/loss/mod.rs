//! Losses over the embeddings of a batch.
//!
//! | name | data | source |
//! | --- | --- | --- |
//! | `angle` | pairs with a score | Li and Li 2024 |
//! | `clip` | pairs; has a parameter where asked for | Radford et al. 2021 |
//! | `co_sent` | pairs with a score | Su 2022 |
//! | `cosine_similarity` | pairs with a score | Reimers and Gurevych 2019 |
//! | `margin_mse` | triplets with a score | Hofstätter et al. 2020 |
//! | `matryoshka` | that of the loss within | Kusupati et al. 2022 |
//! | `mse` | items with a vector | Reimers and Gurevych 2020 |
//! | `multiple_negatives_ranking` | pairs, hard negatives optional | Henderson et al. 2017 |
//! | `online_contrastive` | pairs with a score of 0 or 1 | sentence-transformers |
//! | `pair_contrastive` | pairs with a score of 0 or 1 | Hadsell et al. 2006 |
//! | `triplet` | triplets | Schroff et al. 2015 |
//! | `vicreg` | pairs | Bardes et al. 2022 |
//! | `angular` | items with a label | Wang et al. 2017 |
//! | `circle` | items with a label | Sun et al. 2020 |
//! | `contrastive` | items with a label | Hadsell et al. 2006 |
//! | `fast_ap` | items with a label | Cakir et al. 2019 |
//! | `generalized_lifted_structure` | items with a label | Hermans et al. 2017 |
//! | `intra_pair_variance` | items with a label | Yu and Tao 2019 |
//! | `lifted_structure` | items with a label | Oh Song et al. 2016 |
//! | `margin` | items with a label; has parameters where asked for | Wu et al. 2017 |
//! | `multi_similarity` | items with a label | Wang et al. 2019 |
//! | `n_pairs` | items with a label | Sohn 2016 |
//! | `nca` | items with a label | Goldberger et al. 2004 |
//! | `nt_xent` | items with a label | Chen et al. 2020 |
//! | `signal_to_noise_contrastive` | items with a label | Yuan et al. 2019 |
//! | `sup_con` | items with a label | Khosla et al. 2020 |
//! | `triplet_margin` | items with a label | Hermans et al. 2017 |
//! | `tuplet_margin` | items with a label | Yu and Tao 2019 |
//! | `arc_face` | items with a label; has parameters | Deng et al. 2019 |
//! | `cos_face` | items with a label; has parameters | Wang et al. 2018 |
//! | `large_margin_softmax` | items with a label; has parameters | Liu et al. 2016 |
//! | `normalized_softmax` | items with a label; has parameters | Zhai and Wu 2019 |
//! | `proxy_anchor` | items with a label; has parameters | Kim et al. 2020 |
//! | `proxy_nca` | items with a label; has parameters | Movshovitz-Attias et al. 2017 |
//! | `soft_triple` | items with a label; has parameters | Qian et al. 2019 |
//! | `sphere_face` | items with a label; has parameters | Liu et al. 2017 |
//!
//! Options have the names and defaults of the reference library: pytorch-metric-learning for items
//! with a label and `vicreg`, sentence-transformers for the others, open_clip for `clip`. Losses on
//! labelled items take a [miner](crate::miner) as the option `miner`, and those over pairs or triplets
//! without class vectors the size of a [memory](Memory) of earlier batches as the option `memory`; not
//! so `fast_ap`, `lifted_structure`, `n_pairs` and `nca`.
//!
//! A further loss is a file here that implements [`Loss`], [`LabelledLoss`] or [`ProxyLoss`], and a
//! line in the table of names.

mod angle;
mod angular;
mod arc_face;
mod circle;
mod clip;
mod co_sent;
mod contrastive;
mod cos_face;
mod cosine_similarity;
mod fast_ap;
mod generalized_lifted_structure;
mod intra_pair_variance;
mod labelled;
mod large_margin_softmax;
mod lifted_structure;
mod margin;
mod margin_mse;
mod matryoshka;
mod memory;
mod mse;
mod multi_similarity;
mod multiple_negatives_ranking;
mod n_pairs;
mod nca;
mod normalized_softmax;
mod nt_xent;
mod online_contrastive;
mod ops;
mod pair_contrastive;
mod proxies;
mod proxy_anchor;
mod proxy_nca;
mod signal_to_noise_contrastive;
mod soft_triple;
mod sphere_face;
mod sup_con;
mod triplet;
mod triplet_margin;
mod tuplet_margin;
mod vicreg;

use std::fmt;

use burn::tensor::{Device, Tensor, TensorData};
use fin_core::{Error, Result};

pub use angle::AngleLoss;
pub use angular::AngularLoss;
pub use arc_face::ArcFaceLoss;
pub use circle::CircleLoss;
pub use clip::ClipLoss;
pub use co_sent::CoSentLoss;
pub use contrastive::ContrastiveLoss;
pub use cos_face::CosFaceLoss;
pub use cosine_similarity::CosineSimilarityLoss;
pub use fast_ap::FastApLoss;
pub use generalized_lifted_structure::GeneralizedLiftedStructureLoss;
pub use intra_pair_variance::IntraPairVarianceLoss;
pub use labelled::{Labelled, LabelledBatch, LabelledLoss, PairCounts};
pub use large_margin_softmax::LargeMarginSoftmaxLoss;
pub use lifted_structure::LiftedStructureLoss;
pub use margin::MarginLoss;
pub use margin_mse::MarginMseLoss;
pub use matryoshka::MatryoshkaLoss;
pub use memory::Memory;
pub use mse::MseLoss;
pub use multi_similarity::MultiSimilarityLoss;
pub use multiple_negatives_ranking::MultipleNegativesRankingLoss;
pub use n_pairs::NPairsLoss;
pub use nca::NcaLoss;
pub use normalized_softmax::NormalizedSoftmaxLoss;
pub use nt_xent::NtXentLoss;
pub use online_contrastive::OnlineContrastiveLoss;
pub use pair_contrastive::PairContrastiveLoss;
pub use proxies::{Initial, LossParameters, LossShape, ProxyLoss, WithProxies};
pub use proxy_anchor::ProxyAnchorLoss;
pub use proxy_nca::ProxyNcaLoss;
pub use signal_to_noise_contrastive::SignalToNoiseContrastiveLoss;
pub use soft_triple::SoftTripleLoss;
pub use sphere_face::SphereFaceLoss;
pub use sup_con::SupConLoss;
pub use triplet::{DistanceMetric, TripletLoss};
pub use triplet_margin::TripletMarginLoss;
pub use tuplet_margin::TupletMarginLoss;
pub use vicreg::VicRegLoss;

use crate::dataset::{BatchTargets, TargetKind};
use crate::registry::{self, Entry, Options};

/// A function of a batch's embeddings and targets that training makes small.
pub trait Loss: fmt::Debug + Send {
    /// Name in configuration files.
    fn name(&self) -> &'static str;

    /// Every option with its value.
    fn options(&self) -> Options;

    /// The data it is defined on.
    fn accepts(&self) -> ExpectedData;

    /// The sampler that suits it, by name.
    fn default_sampler(&self) -> &'static str {
        "random"
    }

    /// The loss of a batch: an embedding matrix `[batch, dim]` a column → `[1]`.
    ///
    /// # Errors
    /// [`Error::Argument`] where the columns, their shapes or the targets are not what
    /// [`Loss::accepts`] says.
    fn forward(&self, embeddings: &[Tensor<2>], targets: &BatchTargets) -> Result<Tensor<1>>;

    /// Whether it has parameters of its own, vectors for classes say, that are trained beside the
    /// network.
    fn has_parameters(&self) -> bool {
        false
    }

    /// Makes the parameters, if it has any, for a data set and a network; called once, before the
    /// first batch.
    ///
    /// # Errors
    /// [`Error::Argument`] where the data is not what the parameters are for.
    fn prepare(&mut self, _shape: &LossShape) -> Result<()> {
        Ok(())
    }

    /// The parameters and their name in files; `None` where there are none, or none yet.
    fn parameters(&self) -> Option<(&'static str, LossParameters)> {
        None
    }

    /// Puts other values in the place of [`Loss::parameters`].
    fn set_parameters(&mut self, _parameters: LossParameters) {}

    /// Takes note of a batch whose loss was taken, before the next one's is: what it is to keep of
    /// it. `embeddings` and `targets` are those of [`Loss::forward`].
    ///
    /// # Errors
    /// [`Error::Argument`] where the embeddings cannot be read back.
    fn observe(&mut self, _embeddings: &[Tensor<2>], _targets: &BatchTargets) -> Result<()> {
        Ok(())
    }

    /// What it keeps of earlier batches, if it keeps any.
    fn memory(&self) -> Option<&Memory> {
        None
    }

    /// Puts another memory in the place of [`Loss::memory`].
    fn set_memory(&mut self, _memory: Memory) {}

    /// Smallest and largest value that a parameter may have; those beyond are put there after every
    /// step.
    fn bounds(&self) -> Option<(f64, f64)> {
        None
    }

    /// The learned logarithm of what cosines are multiplied by, if that is what the parameters are;
    /// a network that keeps one has it from here after training.
    fn logit_scale(&self) -> Option<f32> {
        None
    }
}

/// The data a loss is defined on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpectedData {
    /// Smallest number of columns.
    pub min_columns: usize,
    /// Largest number of columns; `None` for any.
    pub max_columns: Option<usize>,
    /// Kind of targets.
    pub targets: TargetKind,
    /// What the columns are, as in "anchor, positive".
    pub roles: &'static str,
}

impl ExpectedData {
    /// Checks a data set's or batch's form against what the loss `name` needs.
    ///
    /// # Errors
    /// [`Error::Argument`] says what is needed and what there is.
    pub fn check(&self, name: &str, columns: usize, targets: TargetKind) -> Result<()> {
        let fits = columns >= self.min_columns && self.max_columns.is_none_or(|max| columns <= max);
        if fits && targets == self.targets {
            return Ok(());
        }
        let plural = if columns == 1 { "" } else { "s" };
        Err(Error::argument(
            "loss",
            format!("`{name}` needs {self}; the data has {columns} column{plural} and {targets}"),
        ))
    }
}

impl fmt::Display for ExpectedData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.min_columns == 1 { "" } else { "s" };
        match self.max_columns {
            Some(max) if max == self.min_columns => write!(f, "{max} column{plural}")?,
            Some(max) => write!(f, "{} to {max} columns", self.min_columns)?,
            None => write!(f, "{} or more columns", self.min_columns)?,
        }
        write!(f, " ({}) and {}", self.roles, self.targets)
    }
}

const LOSSES: [Entry<dyn Loss>; 36] = [
    ("angle", |_, options| {
        Ok(Box::new(AngleLoss::from_options(options)?))
    }),
    ("angular", |_, options| {
        Ok(Box::new(Labelled::<AngularLoss>::from_options(options)?))
    }),
    ("arc_face", |_, options| {
        Ok(Box::new(WithProxies::<ArcFaceLoss>::from_options(options)?))
    }),
    ("circle", |_, options| {
        Ok(Box::new(Labelled::<CircleLoss>::from_options(options)?))
    }),
    ("clip", |_, options| {
        Ok(Box::new(ClipLoss::from_options(options)?))
    }),
    ("co_sent", |_, options| {
        Ok(Box::new(CoSentLoss::from_options(options)?))
    }),
    ("contrastive", |_, options| {
        Ok(Box::new(Labelled::<ContrastiveLoss>::from_options(
            options,
        )?))
    }),
    ("cos_face", |_, options| {
        Ok(Box::new(WithProxies::<CosFaceLoss>::from_options(options)?))
    }),
    ("cosine_similarity", |_, options| {
        Ok(Box::new(CosineSimilarityLoss::from_options(options)?))
    }),
    ("fast_ap", |_, options| {
        Ok(Box::new(Labelled::<FastApLoss>::from_options(options)?))
    }),
    ("generalized_lifted_structure", |_, options| {
        Ok(Box::new(
            Labelled::<GeneralizedLiftedStructureLoss>::from_options(options)?,
        ))
    }),
    ("intra_pair_variance", |_, options| {
        Ok(Box::new(Labelled::<IntraPairVarianceLoss>::from_options(
            options,
        )?))
    }),
    ("large_margin_softmax", |_, options| {
        Ok(Box::new(
            WithProxies::<LargeMarginSoftmaxLoss>::from_options(options)?,
        ))
    }),
    ("lifted_structure", |_, options| {
        Ok(Box::new(Labelled::<LiftedStructureLoss>::from_options(
            options,
        )?))
    }),
    ("margin", |_, options| {
        Ok(Box::new(Labelled::<MarginLoss>::from_options(options)?))
    }),
    ("margin_mse", |_, options| {
        Ok(Box::new(MarginMseLoss::from_options(options)?))
    }),
    ("matryoshka", |_, options| {
        Ok(Box::new(MatryoshkaLoss::from_options(options)?))
    }),
    ("mse", |_, options| {
        Ok(Box::new(MseLoss::from_options(options)?))
    }),
    ("multi_similarity", |_, options| {
        Ok(Box::new(Labelled::<MultiSimilarityLoss>::from_options(
            options,
        )?))
    }),
    ("multiple_negatives_ranking", |_, options| {
        Ok(Box::new(MultipleNegativesRankingLoss::from_options(
            options,
        )?))
    }),
    ("n_pairs", |_, options| {
        Ok(Box::new(Labelled::<NPairsLoss>::from_options(options)?))
    }),
    ("nca", |_, options| {
        Ok(Box::new(Labelled::<NcaLoss>::from_options(options)?))
    }),
    ("normalized_softmax", |_, options| {
        Ok(Box::new(
            WithProxies::<NormalizedSoftmaxLoss>::from_options(options)?,
        ))
    }),
    ("nt_xent", |_, options| {
        Ok(Box::new(Labelled::<NtXentLoss>::from_options(options)?))
    }),
    ("online_contrastive", |_, options| {
        Ok(Box::new(OnlineContrastiveLoss::from_options(options)?))
    }),
    ("pair_contrastive", |_, options| {
        Ok(Box::new(PairContrastiveLoss::from_options(options)?))
    }),
    ("proxy_anchor", |_, options| {
        Ok(Box::new(WithProxies::<ProxyAnchorLoss>::from_options(
            options,
        )?))
    }),
    ("proxy_nca", |_, options| {
        Ok(Box::new(WithProxies::<ProxyNcaLoss>::from_options(
            options,
        )?))
    }),
    ("signal_to_noise_contrastive", |_, options| {
        Ok(Box::new(
            Labelled::<SignalToNoiseContrastiveLoss>::from_options(options)?,
        ))
    }),
    ("soft_triple", |_, options| {
        Ok(Box::new(WithProxies::<SoftTripleLoss>::from_options(
            options,
        )?))
    }),
    ("sphere_face", |_, options| {
        Ok(Box::new(WithProxies::<SphereFaceLoss>::from_options(
            options,
        )?))
    }),
    ("sup_con", |_, options| {
        Ok(Box::new(Labelled::<SupConLoss>::from_options(options)?))
    }),
    ("triplet", |_, options| {
        Ok(Box::new(TripletLoss::from_options(options)?))
    }),
    ("triplet_margin", |_, options| {
        Ok(Box::new(Labelled::<TripletMarginLoss>::from_options(
            options,
        )?))
    }),
    ("tuplet_margin", |_, options| {
        Ok(Box::new(Labelled::<TupletMarginLoss>::from_options(
            options,
        )?))
    }),
    ("vicreg", |_, options| {
        Ok(Box::new(VicRegLoss::from_options(options)?))
    }),
];

/// The loss of this name.
///
/// # Errors
/// [`Error::Argument`] lists the names, or names an option that cannot be used.
///
/// ```
/// use serde_json::json;
///
/// let options = json!({"scale": 30.0});
/// let loss = fin_train::loss_from_name("multiple_negatives_ranking", options.as_object().unwrap())?;
/// assert_eq!(loss.options()["scale"], 30.0);
/// # Ok::<(), fin_core::Error>(())
/// ```
pub fn loss_from_name(name: &str, options: &Options) -> Result<Box<dyn Loss>> {
    registry::from_name("loss", &LOSSES, name, options)
}

/// The names that [`loss_from_name`] takes.
pub fn loss_names() -> impl Iterator<Item = &'static str> {
    LOSSES.iter().map(|(name, _)| *name)
}

/// Checks a batch against what a loss accepts; returns `[batch, dim]`.
fn check_batch(
    loss: &dyn Loss,
    embeddings: &[Tensor<2>],
    targets: &BatchTargets,
) -> Result<[usize; 2]> {
    loss.accepts()
        .check(loss.name(), embeddings.len(), targets.kind())?;
    let dims = embeddings[0].dims();
    let invalid = |reason: String| Err(Error::argument("batch", reason));
    if dims[0] == 0 || dims[1] == 0 {
        return invalid(format!("embeddings of shape {dims:?} are empty"));
    }
    if let Some(other) = embeddings
        .iter()
        .map(Tensor::dims)
        .find(|other| *other != dims)
    {
        return invalid(format!(
            "columns have embeddings of shapes {dims:?} and {other:?}"
        ));
    }
    let count = match targets {
        BatchTargets::None => dims[0],
        BatchTargets::Scores(scores) => scores.len(),
        BatchTargets::Labels(labels) => labels.len(),
        BatchTargets::Vectors { values, dim } => values.len().checked_div(*dim).unwrap_or(0),
    };
    if count != dims[0] {
        return invalid(format!("{} embeddings have {count} targets", dims[0]));
    }
    Ok(dims)
}

/// The scores of a batch: `[batch, 1]`.
fn scores(targets: &BatchTargets, device: &Device) -> Tensor<2> {
    let scores: &[f32] = match targets {
        BatchTargets::Scores(scores) => scores,
        // Refused by `check_batch`.
        BatchTargets::None | BatchTargets::Labels(_) | BatchTargets::Vectors { .. } => &[],
    };
    let data = TensorData::new(scores.to_vec(), [scores.len(), 1]);
    Tensor::from_data(data, device)
}
