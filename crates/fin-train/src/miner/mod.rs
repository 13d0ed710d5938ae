//! Which pairs or triplets of a batch of labelled items a loss is taken over.
//!
//! | name | selects | source |
//! | --- | --- | --- |
//! | `angular` | triplets with a wide angle at the negative | Wang et al. 2017 |
//! | `batch_easy_hard` | a positive and a negative an anchor, each easy, semi-hard or hard | Xuan et al. 2020 |
//! | `batch_hard` | the farthest positive and the nearest negative of an anchor | Hermans et al. 2017 |
//! | `distance_weighted` | negatives drawn evenly over distances | Wu et al. 2017 |
//! | `hdc` | the hardest share of all pairs | Yuan et al. 2017 |
//! | `maximum_loss` | the part of the batch with the largest loss, of some drawn | pytorch-metric-learning 0.9 |
//! | `multi_similarity` | pairs that are harder than the hardest of the other kind | Wang et al. 2019 |
//! | `pair_margin` | pairs beyond fixed distances | pytorch-metric-learning |
//! | `triplet_margin` | triplets that violate a margin | Schroff et al. 2015 |
//! | `uniform_histogram` | as many pairs of every distance | pytorch-metric-learning |
//!
//! A miner sees the values of the embeddings, not how they came about: no gradient flows through
//! the selection. It works on the host in double precision. Distances are Euclidean between
//! vectors scaled to unit length, similarities are cosines, as in pytorch-metric-learning's
//! defaults. With a [memory](crate::loss::Memory), anchors are the items of the batch, and all others
//! are of the memory. A further miner is a file here that implements [`Miner`], and a line in the table of
//! names.
//!
//! ```
//! use fin_train::miner::{BatchHardMiner, Mined, Miner, MinerBatch};
//!
//! let embeddings = [1.0, 0.0, 0.8, 0.6, 0.6, 0.8, 0.0, 1.0];
//! let batch = MinerBatch::new(&embeddings, 2, &[0, 0, 1, 1])?;
//! let mined = BatchHardMiner::default().mine(&batch)?;
//! assert_eq!(mined, Mined::Triplets(vec![[0, 1, 2], [1, 0, 2], [2, 3, 1], [3, 2, 1]]));
//! # Ok::<(), fin_core::Error>(())
//! ```

mod angular;
mod batch_easy_hard;
mod batch_hard;
mod distance_weighted;
mod hdc;
mod maximum_loss;
mod multi_similarity;
mod pair_margin;
mod triplet_margin;
mod uniform_histogram;

use std::fmt;

use burn::tensor::Device;
use fin_core::{Error, Result};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

pub use angular::AngularMiner;
pub use batch_easy_hard::{BatchEasyHardMiner, Strategy};
pub use batch_hard::BatchHardMiner;
pub use distance_weighted::DistanceWeightedMiner;
pub use hdc::HdcMiner;
pub use maximum_loss::MaximumLossMiner;
pub use multi_similarity::MultiSimilarityMiner;
pub use pair_margin::PairMarginMiner;
pub use triplet_margin::{TripletKind, TripletMarginMiner};
pub use uniform_histogram::UniformHistogramMiner;

use crate::registry::{self, Entry, Options};

/// Selects pairs or triplets of a batch.
pub trait Miner: fmt::Debug + Send {
    /// Name in configuration files.
    fn name(&self) -> &'static str;

    /// Every option with its value.
    fn options(&self) -> Options;

    /// The selection, a function of the batch and the options alone.
    ///
    /// # Errors
    /// [`Error::Argument`] where the batch is not what the miner needs.
    fn mine(&self, batch: &MinerBatch<'_>) -> Result<Mined>;
}

/// A selection, as indices into the batch. An entry may be there more than once, and counts as
/// often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mined {
    /// Pairs of an anchor and another item.
    Pairs {
        /// Pairs of one class.
        positive: Vec<[usize; 2]>,
        /// Pairs of two classes.
        negative: Vec<[usize; 2]>,
    },
    /// Anchor, positive and negative.
    Triplets(Vec<[usize; 3]>),
}

impl Mined {
    /// Every pair of different items.
    pub fn all_pairs(labels: &[usize]) -> Self {
        let (mut positive, mut negative) = (Vec::new(), Vec::new());
        for (a, anchor) in labels.iter().enumerate() {
            for (b, other) in labels.iter().enumerate() {
                match (anchor == other, a == b) {
                    (true, false) => positive.push([a, b]),
                    (false, _) => negative.push([a, b]),
                    (true, true) => {}
                }
            }
        }
        Self::Pairs { positive, negative }
    }

    /// Every pair of an item and one of others, whose classes these are.
    pub fn pairs_with(labels: &[usize], others: &[usize]) -> Self {
        let (mut positive, mut negative) = (Vec::new(), Vec::new());
        for (a, anchor) in labels.iter().enumerate() {
            for (b, other) in others.iter().enumerate() {
                match anchor == other {
                    true => positive.push([a, b]),
                    false => negative.push([a, b]),
                }
            }
        }
        Self::Pairs { positive, negative }
    }

    /// Without comparisons of item `a` with itself, which is number `own[a]` of those that it is
    /// compared with.
    pub fn without_own(self, own: &[usize]) -> Self {
        match self {
            Self::Pairs {
                mut positive,
                negative,
            } => {
                positive.retain(|&[a, p]| own[a] != p);
                Self::Pairs { positive, negative }
            }
            Self::Triplets(mut triplets) => {
                triplets.retain(|&[a, p, _]| own[a] != p);
                Self::Triplets(triplets)
            }
        }
    }

    /// Positive and negative pairs; those of a triplet are its anchor with either other item.
    pub fn pairs(&self) -> (Vec<[usize; 2]>, Vec<[usize; 2]>) {
        match self {
            Self::Pairs { positive, negative } => (positive.clone(), negative.clone()),
            Self::Triplets(triplets) => (
                triplets.iter().map(|&[a, p, _]| [a, p]).collect(),
                triplets.iter().map(|&[a, _, n]| [a, n]).collect(),
            ),
        }
    }

    /// Triplets; of pairs, every positive pair with every negative one of the same anchor.
    pub fn triplets(&self) -> Vec<[usize; 3]> {
        match self {
            Self::Triplets(triplets) => triplets.clone(),
            Self::Pairs { positive, negative } => positive
                .iter()
                .flat_map(|&[a, p]| {
                    negative
                        .iter()
                        .filter(move |[other, _]| *other == a)
                        .map(move |&[_, n]| [a, p, n])
                })
                .collect(),
        }
    }

    /// How often each of `batch` items is there, divided by the largest of these numbers; 1 for
    /// all where nothing was selected.
    pub fn weights(&self, batch: usize) -> Vec<f32> {
        match self {
            Self::Pairs { positive, negative } => {
                shares(batch, positive.iter().chain(negative).flatten())
            }
            Self::Triplets(triplets) => shares(batch, triplets.iter().flatten()),
        }
    }

    /// [`Mined::weights`] by how often each item is an anchor.
    pub fn anchor_weights(&self, batch: usize) -> Vec<f32> {
        match self {
            Self::Pairs { positive, negative } => shares(
                batch,
                positive.iter().chain(negative).map(|[anchor, _]| anchor),
            ),
            Self::Triplets(triplets) => shares(batch, triplets.iter().map(|[anchor, ..]| anchor)),
        }
    }
}

/// How often each of `batch` numbers is there, divided by the largest of these numbers; 1 for all
/// where there are none.
fn shares<'a>(batch: usize, items: impl Iterator<Item = &'a usize>) -> Vec<f32> {
    let mut counts = vec![0usize; batch];
    items.for_each(|&item| counts[item] += 1);
    match counts.iter().max() {
        Some(&largest) if largest > 0 => counts
            .iter()
            .map(|&count| (count as f64 / largest as f64) as f32)
            .collect(),
        _ => vec![1.0; batch],
    }
}

/// What a miner sees of a batch.
#[derive(Debug, Clone)]
pub struct MinerBatch<'a> {
    values: &'a [f32],
    dim: usize,
    labels: &'a [usize],
    /// Rows of unit length.
    unit: Vec<f64>,
    others: Option<Others<'a>>,
    device: Device,
}

/// Items that those of a batch are compared with.
#[derive(Debug, Clone)]
struct Others<'a> {
    values: &'a [f32],
    labels: &'a [usize],
    unit: Vec<f64>,
}

impl<'a> MinerBatch<'a> {
    /// Of embeddings, row-major with rows of `dim` numbers, and a class each.
    ///
    /// # Errors
    /// [`Error::Argument`] where there are no embeddings or not one a label.
    pub fn new(values: &'a [f32], dim: usize, labels: &'a [usize]) -> Result<Self> {
        Ok(Self {
            unit: unit_rows(values, dim, labels)?,
            values,
            dim,
            labels,
            others: None,
            device: Device::default(),
        })
    }

    /// Compared with these items, as many numbers wide, instead of with itself. Pairs are then of an
    /// item of the batch and one of them.
    ///
    /// # Errors
    /// Those of [`MinerBatch::new`].
    pub fn against(mut self, values: &'a [f32], labels: &'a [usize]) -> Result<Self> {
        self.others = Some(Others {
            unit: unit_rows(values, self.dim, labels)?,
            values,
            labels,
        });
        Ok(self)
    }

    /// Whether the items are compared with others, by [`MinerBatch::against`].
    pub fn has_others(&self) -> bool {
        self.others.is_some()
    }

    /// Number of items that each is compared with: those of the batch, or the others.
    pub fn columns(&self) -> usize {
        self.column_labels().len()
    }

    /// Classes of the items that each is compared with.
    pub fn column_labels(&self) -> &'a [usize] {
        self.others
            .as_ref()
            .map_or(self.labels, |others| others.labels)
    }

    /// Every pair of different items.
    pub fn all_pairs(&self) -> Mined {
        match &self.others {
            None => Mined::all_pairs(self.labels),
            Some(others) => Mined::pairs_with(self.labels, others.labels),
        }
    }

    /// With the device that the embeddings are on, for miners that compute a loss.
    pub fn on(mut self, device: &Device) -> Self {
        self.device = device.clone().without_autodiff();
        self
    }

    /// The device of [`MinerBatch::on`], or else Burn's default.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no items; never true of a batch that was made.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Classes.
    pub fn labels(&self) -> &'a [usize] {
        self.labels
    }

    /// The embeddings as they are, row-major.
    pub fn values(&self) -> &'a [f32] {
        self.values
    }

    /// Width of an embedding.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Cosine similarities of all items.
    pub fn cosines(&self) -> Matrix {
        self.square(|a, b| a.iter().zip(b).map(|(x, y)| x * y).sum())
    }

    /// Euclidean distances of all items scaled to unit length.
    pub fn distances(&self) -> Matrix {
        self.square(|a, b| {
            let squares = a.iter().zip(b).map(|(x, y)| (x - y).powi(2));
            squares.sum::<f64>().sqrt()
        })
    }

    /// Euclidean distances of all items as they are.
    pub fn unscaled_distances(&self) -> Matrix {
        let others = self
            .others
            .as_ref()
            .map_or(self.values, |others| others.values);
        self.each_pair(self.values, others, unscaled_distance)
    }

    /// [`MinerBatch::unscaled_distances`] of the items that those of the batch are compared with.
    pub fn unscaled_distances_of_columns(&self) -> Matrix {
        match &self.others {
            None => self.unscaled_distances(),
            Some(others) => self.each_pair(others.values, others.values, unscaled_distance),
        }
    }

    fn square(&self, entry: impl Fn(&[f64], &[f64]) -> f64) -> Matrix {
        let others = self
            .others
            .as_ref()
            .map_or(&self.unit, |others| &others.unit);
        self.each_pair(&self.unit, others, entry)
    }

    /// An entry for every row of one matrix and every row of another, which depends on the two alone
    /// and not on their order.
    fn each_pair<T>(&self, a: &[T], b: &[T], entry: impl Fn(&[T], &[T]) -> f64) -> Matrix {
        let columns = b.len() / self.dim;
        let same = std::ptr::eq(a, b);
        let mut values = vec![0.0; a.len() / self.dim * columns];
        for (i, row) in a.chunks_exact(self.dim).enumerate() {
            let end = if same { i + 1 } else { columns };
            for (j, other) in b.chunks_exact(self.dim).take(end).enumerate() {
                let value = entry(row, other);
                values[i * columns + j] = value;
                if same {
                    values[j * columns + i] = value;
                }
            }
        }
        Matrix { columns, values }
    }

    /// A generator that depends on the seed and the batch: batches have unrelated selections, and
    /// a resumed run has those of an unbroken one. ChaCha with 8 rounds, seeded by FNV-1a (Fowler,
    /// Noll and Vo) of the embeddings' bits.
    pub fn generator(&self, seed: u64) -> ChaCha8Rng {
        let digest = self.values.iter().flat_map(|x| x.to_bits().to_le_bytes());
        let digest = digest.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(digest);
        rng
    }

    /// Whether two items are of one class and different; of others, whether they are of one class.
    fn positive(&self, a: usize, b: usize) -> bool {
        (self.has_others() || a != b) && self.labels[a] == self.column_labels()[b]
    }

    /// Whether two items are of different classes.
    fn negative(&self, a: usize, b: usize) -> bool {
        self.labels[a] != self.column_labels()[b]
    }

    /// All triplets for which a condition holds, in order.
    fn triplets_where(&self, keep: impl Fn(usize, usize, usize) -> bool) -> Vec<[usize; 3]> {
        let mut triplets = Vec::new();
        for a in 0..self.len() {
            for p in (0..self.columns()).filter(|&p| self.positive(a, p)) {
                for n in (0..self.columns()).filter(|&n| self.negative(a, n)) {
                    if keep(a, p, n) {
                        triplets.push([a, p, n]);
                    }
                }
            }
        }
        triplets
    }
}

/// Rows scaled to unit length.
fn unit_rows(values: &[f32], dim: usize, labels: &[usize]) -> Result<Vec<f64>> {
    if dim == 0 || labels.is_empty() || values.len() != labels.len() * dim {
        let reason = format!(
            "{} numbers are not {} embeddings of {dim}",
            values.len(),
            labels.len()
        );
        return Err(Error::argument("batch", reason));
    }
    let rows = values.chunks_exact(dim).flat_map(|row| {
        let squares = row.iter().map(|x| f64::from(*x).powi(2));
        let norm = squares.sum::<f64>().sqrt().max(1e-12);
        row.iter().map(move |x| f64::from(*x) / norm)
    });
    Ok(rows.collect())
}

fn unscaled_distance(a: &[f32], b: &[f32]) -> f64 {
    let squares = a
        .iter()
        .zip(b)
        .map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2));
    squares.sum::<f64>().sqrt()
}

/// A number for every pair of an item and one that it is compared with.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    columns: usize,
    values: Vec<f64>,
}

impl Matrix {
    /// The number of items `a` and `b`.
    pub fn at(&self, a: usize, b: usize) -> f64 {
        self.values[a * self.columns + b]
    }

    /// The numbers of item `a`.
    pub fn row(&self, a: usize) -> &[f64] {
        &self.values[a * self.columns..(a + 1) * self.columns]
    }
}

const MINERS: [Entry<dyn Miner>; 10] = [
    ("angular", |_, options| {
        Ok(Box::new(AngularMiner::from_options(options)?))
    }),
    ("batch_easy_hard", |_, options| {
        Ok(Box::new(BatchEasyHardMiner::from_options(options)?))
    }),
    ("batch_hard", |_, options| {
        Ok(Box::new(registry::parse::<BatchHardMiner>(
            "batch_hard",
            options,
        )?))
    }),
    ("distance_weighted", |_, options| {
        Ok(Box::new(DistanceWeightedMiner::from_options(options)?))
    }),
    ("hdc", |_, options| {
        Ok(Box::new(HdcMiner::from_options(options)?))
    }),
    ("maximum_loss", |_, options| {
        Ok(Box::new(MaximumLossMiner::from_options(options)?))
    }),
    ("multi_similarity", |_, options| {
        Ok(Box::new(MultiSimilarityMiner::from_options(options)?))
    }),
    ("pair_margin", |_, options| {
        Ok(Box::new(PairMarginMiner::from_options(options)?))
    }),
    ("triplet_margin", |_, options| {
        Ok(Box::new(TripletMarginMiner::from_options(options)?))
    }),
    ("uniform_histogram", |_, options| {
        Ok(Box::new(UniformHistogramMiner::from_options(options)?))
    }),
];

/// The miner of this name.
///
/// # Errors
/// [`Error::Argument`] lists the names, or names an option that cannot be used.
pub fn miner_from_name(name: &str, options: &Options) -> Result<Box<dyn Miner>> {
    registry::from_name("miner", &MINERS, name, options)
}

/// The names that [`miner_from_name`] takes.
pub fn miner_names() -> impl Iterator<Item = &'static str> {
    MINERS.iter().map(|(name, _)| *name)
}

/// The miner that the option `miner` of a loss stands for: a name, or an object with `name` and
/// the miner's options.
pub(crate) fn from_value(value: &Value) -> Result<Box<dyn Miner>> {
    let (name, options) = registry::named("miner", value)?;
    miner_from_name(&name, &options)
}

/// The reverse of [`from_value`].
pub(crate) fn to_value(miner: &dyn Miner) -> Value {
    registry::to_named(miner.name(), miner.options())
}

/// Refuses an option that is not a finite number.
fn finite(option: &str, value: f64) -> Result<()> {
    if value.is_finite() {
        Ok(())
    } else {
        Err(Error::argument(option, format!("{value} is not a number")))
    }
}
