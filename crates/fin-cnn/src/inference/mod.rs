//! Networks at inference on `flex`, as layers of [`fin_core::kernels::blocked`]: batch
//! normalisations taken into the convolutions, weights packed once, and activations in blocks of
//! 16 channels from the pixels to the last feature map. In 8 bits are, where asked for, the convolutions in which
//! every output sees every input, but for the first and those of squeeze and excitation.

mod layers;

use std::fmt;
use std::sync::{Mutex, PoisonError};

use burn::tensor::{Tensor, TensorData};
use fin_core::kernels::blocked::{Shape, Window, from_blocked, max_pool};
use fin_core::kernels::{Activation, slices};
use fin_core::{Backbone, Precision};

use crate::architecture::CnnBackbone;
use crate::efficientnet::{EfficientNet, MbConv};
use crate::layers::ConvNorm;
use crate::resnet::{ResNet, Residual};
use layers::{Dense, Depthwise, Excite, First, Known, Map, Pool};

/// Bytes a thread of the largest feature map that images go through the first layers with: few
/// enough to stay in the last level of the cache from one layer to the next.
const MAP_BYTES: usize = 4 << 20;

/// A network of packed layers.
pub(crate) struct Plan {
    first: First,
    stages: Vec<Stage>,
    channels: usize,
    /// Kept from one batch to the next.
    pool: Mutex<Pool>,
}

/// What lies between two feature maps that [`Plan::feature_maps`] gives.
enum Stage {
    /// Bottlenecks and their like, the first after a max pooling where the flag is set.
    Residual(Vec<ResidualPlan>, bool),
    MbConv(Vec<MbConvPlan>),
    Head(Dense),
}

/// [`Residual`].
struct ResidualPlan {
    first: Dense,
    middle: Vec<Dense>,
    /// The last of the branch, to which the shortcut is added.
    last: Dense,
    downsample: Option<Dense>,
}

/// [`MbConv`].
struct MbConvPlan {
    expand: Option<Dense>,
    depthwise: Depthwise,
    excite: Option<Excite>,
    project: Dense,
    /// Whether there is a shortcut beside it.
    shortcut: bool,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("channels", &self.channels)
            .finish_non_exhaustive()
    }
}

/// Every part of a list, or none.
fn all<A, B>(list: &[A], part: impl Fn(&A) -> Option<B>) -> Option<Vec<B>> {
    list.iter().map(part).collect()
}

impl Plan {
    /// Folds and packs a network, layer by layer; none where its weights are not on `flex`, or it
    /// has layers that the kernels do not know.
    pub(crate) fn new(network: &CnnBackbone, precision: Precision) -> Option<Self> {
        let (first, stages) = match network {
            CnnBackbone::ResNet(network) => {
                (First::new(&network.stem)?, resnet(network, precision)?)
            }
            CnnBackbone::EfficientNet(network) => (
                First::new(&network.stem)?,
                efficientnet(network, precision)?,
            ),
            CnnBackbone::Blocked(_) => return None,
        };
        Some(Self {
            first,
            stages,
            channels: network.hidden_size(),
            pool: Mutex::default(),
        })
    }

    /// Channels of the last feature map.
    pub(crate) fn hidden_size(&self) -> usize {
        self.channels
    }

    /// The last feature map; none where the pixels are not where the kernels can read them.
    pub(crate) fn forward(&self, pixels: &Tensor<4>) -> Option<Tensor<4>> {
        slices::map(pixels, |pixels, shape| {
            let pixels = Pixels(pixels, shape_of(shape));
            self.with_pool(|pool| {
                let last = self.run_to(self.stages.len(), pixels, pool);
                let plain = plain(&last);
                pool.put(last);
                plain
            })
        })
    }

    /// The feature maps after the stem, every stage and the head.
    pub(crate) fn feature_maps(&self, pixels: &Tensor<4>) -> Option<Vec<Tensor<4>>> {
        let values = slices::values(pixels.clone())?;
        let device = pixels.device();
        let mut pool = Pool::default();
        let mut map = self.first.run(&values, shape_of(pixels.dims()), &mut pool);
        let tensor = |map: &Map| {
            let (values, shape) = plain(map);
            Tensor::from_data(TensorData::new(values, shape), &device)
        };
        let mut maps = vec![tensor(&map)];
        for stage in &self.stages {
            map = stage.run(map, &mut pool);
            maps.push(tensor(&map));
        }
        Some(maps)
    }

    fn with_pool<T>(&self, work: impl FnOnce(&mut Pool) -> T) -> T {
        // Another batch at the same time has memory of its own.
        let lock = || self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pool = std::mem::take(&mut *lock());
        let outcome = work(&mut pool);
        *lock() = pool;
        outcome
    }

    /// The output of the first layer and the first `count` stages. Where the maps in between are
    /// large, a few images go through all of these layers before the next ones do.
    fn run_to(&self, count: usize, pixels: Pixels, pool: &mut Pool) -> Map {
        let batch = pixels.1.batch;
        let room = MAP_BYTES * rayon::current_num_threads();
        let images = (room / self.largest(count, pixels.1).max(1)).clamp(1, batch.max(1));
        // As many in each part as nearly as can be.
        let images = batch.div_ceil(batch.div_ceil(images));
        if images < batch {
            let mut joined: Option<Map> = None;
            let mut ranges = Some(Vec::with_capacity(batch));
            for start in (0..batch).step_by(images) {
                let part = pixels.part(start, images.min(batch - start));
                let part = self.run_to(count, part, pool);
                match (&mut ranges, &part.known) {
                    (Some(ranges), Known::Images(part)) => ranges.extend(part),
                    _ => ranges = None,
                }
                let to = Shape {
                    batch,
                    ..part.shape
                };
                let joined = joined.get_or_insert_with(|| Map::new(to, pool));
                let image = part.values.len() / part.shape.batch;
                joined.values[start * image..][..part.values.len()].copy_from_slice(&part.values);
                pool.put(part);
            }
            if let Some(joined) = joined {
                let known = ranges.map_or(Known::Nothing, Known::Images);
                return Map { known, ..joined };
            }
        }
        match count.checked_sub(1) {
            None => self.first.run(pixels.0, pixels.1, pool),
            Some(before) => {
                let x = self.run_to(before, pixels, pool);
                self.stages[before].run(x, pool)
            }
        }
    }

    /// Bytes an image of the largest map within the stage that `count` stages end with.
    fn largest(&self, count: usize, pixels: Shape) -> usize {
        let mut shape = self.first.shape(pixels);
        let mut largest = shape.blocked_len();
        for stage in &self.stages[..count] {
            (largest, shape) = stage.extent(shape);
        }
        largest / shape.batch.max(1) * size_of::<f32>()
    }
}

/// Values and shape of images, `[batch, channels, height, width]`.
#[derive(Clone, Copy)]
struct Pixels<'a>(&'a [f32], Shape);

impl Pixels<'_> {
    fn part(&self, start: usize, count: usize) -> Self {
        let image = self.1.plain_len() / self.1.batch;
        let shape = Shape {
            batch: count,
            ..self.1
        };
        Self(&self.0[start * image..][..count * image], shape)
    }
}

fn resnet(network: &ResNet, precision: Precision) -> Option<Vec<Stage>> {
    let own = |conv: &ConvNorm| Dense::new(conv, conv.activation, precision);
    let residual = |block: &Residual| {
        let [first, middle @ .., last] = &block.convs[..] else {
            return None;
        };
        Some(ResidualPlan {
            first: own(first)?,
            middle: all(middle, own)?,
            last: Dense::new(last, Activation::Relu, precision)?,
            downsample: match &block.downsample {
                Some(conv) => Some(own(conv)?),
                None => None,
            },
        })
    };
    let stages = network.stages.iter().enumerate();
    stages
        .map(|(i, stage)| Some(Stage::Residual(all(stage, residual)?, i == 0)))
        .collect()
}

fn efficientnet(network: &EfficientNet, precision: Precision) -> Option<Vec<Stage>> {
    let own = |conv: &ConvNorm| Dense::new(conv, conv.activation, precision);
    let block = |block: &MbConv| {
        Some(MbConvPlan {
            expand: match &block.expand {
                Some(conv) => {
                    let conv = own(conv)?;
                    Some(conv.is_point().then_some(conv)?)
                }
                None => None,
            },
            depthwise: Depthwise::new(&block.depthwise)?,
            excite: match &block.squeeze_excite {
                Some(layer) => Some(Excite::new(layer)?),
                None => None,
            },
            project: own(&block.project)?,
            shortcut: block.stochastic_depth.is_some(),
        })
    };
    let mut stages = all(&network.stages, |stage| {
        Some(Stage::MbConv(all(stage, block)?))
    })?;
    stages.push(Stage::Head(own(&network.head)?));
    Some(stages)
}

impl Stage {
    fn run(&self, x: Map, pool: &mut Pool) -> Map {
        match self {
            Self::Residual(blocks, pools) => {
                let x = if *pools { max_pooled(x, pool) } else { x };
                blocks.iter().fold(x, |x, block| block.run(x, pool))
            }
            Self::MbConv(blocks) => blocks.iter().fold(x, |x, block| block.run(x, pool)),
            Self::Head(head) => {
                let y = head.run(&x, None, None, pool);
                pool.put(x);
                y
            }
        }
    }

    /// Floats of the largest map on the way, the input included, and the shape of the output.
    fn extent(&self, mut shape: Shape) -> (usize, Shape) {
        let mut largest = shape.blocked_len();
        let mut next = |to: Shape| {
            largest = largest.max(to.blocked_len());
            to
        };
        match self {
            Self::Residual(blocks, pools) => {
                if *pools {
                    shape = pooled(shape);
                }
                for block in blocks {
                    let convs = [&block.first].into_iter().chain(&block.middle);
                    let convs = convs.chain([&block.last]);
                    shape = convs.fold(shape, |shape, conv| next(conv.shape(shape)));
                }
            }
            Self::MbConv(blocks) => {
                for block in blocks {
                    shape = next(block.depthwise.shape(shape));
                    shape = next(block.project.shape(shape));
                }
            }
            Self::Head(head) => shape = next(head.shape(shape)),
        }
        (largest, shape)
    }
}

/// The max pooling of ResNet.
const POOL_KERNEL: usize = 3;

fn pool_window() -> Window {
    Window::new(2, 1)
}

fn pooled(shape: Shape) -> Shape {
    let [height, width] = pool_window().output(shape.height, shape.width, [POOL_KERNEL; 2]);
    Shape {
        height,
        width,
        ..shape
    }
}

fn max_pooled(x: Map, pool: &mut Pool) -> Map {
    let mut map = Map::new(pooled(x.shape), pool);
    max_pool(
        &x.values,
        x.shape,
        POOL_KERNEL,
        pool_window(),
        &mut map.values,
    );
    pool.put(x);
    map
}

/// What `[batch, channels, height, width]` stands for.
fn shape_of([batch, channels, height, width]: [usize; 4]) -> Shape {
    Shape {
        batch,
        channels,
        height,
        width,
    }
}

/// Values and shape of a map out of its blocks.
fn plain(map: &Map) -> (Vec<f32>, [usize; 4]) {
    let shape = map.shape;
    let mut values = vec![0.0; shape.plain_len()];
    from_blocked(&map.values, shape, &mut values);
    let dims = [shape.batch, shape.channels, shape.height, shape.width];
    (values, dims)
}

impl ResidualPlan {
    fn run(&self, x: Map, pool: &mut Pool) -> Map {
        let mut branch = self.first.run(&x, None, None, pool);
        for conv in &self.middle {
            let y = conv.run(&branch, None, None, pool);
            pool.put(std::mem::replace(&mut branch, y));
        }
        let shortcut = match &self.downsample {
            Some(conv) => {
                let y = conv.run(&x, None, None, pool);
                pool.put(x);
                y
            }
            None => x,
        };
        let y = self.last.run(&branch, Some(shortcut), None, pool);
        pool.put(branch);
        y
    }
}

impl MbConvPlan {
    fn run(&self, x: Map, pool: &mut Pool) -> Map {
        let batch = x.shape.batch;
        let mut means = vec![0.0; batch * self.depthwise.channels()];
        let excite = self.excite.as_ref();
        let wanted = excite.map(|_| &mut means[..]);
        let (expand, extents) = (self.expand.as_ref(), self.project.is_int8());
        let wide = self.depthwise.run(expand, &x, wanted, extents, pool);
        let scale = excite.map(|layer| layer.run(&means, batch, pool));
        let shortcut = if self.shortcut {
            Some(x)
        } else {
            pool.put(x);
            None
        };
        let y = self.project.run(&wide, shortcut, scale.as_deref(), pool);
        pool.put(wide);
        y
    }
}
