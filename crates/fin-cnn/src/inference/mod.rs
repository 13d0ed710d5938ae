//! Networks at inference on `flex`, as layers of [`fin_core::kernels::blocked`]: batch
//! normalisations taken into the convolutions, weights packed once, and activations in blocks of
//! 16 channels from the pixels to the last feature map.

mod layers;

use std::fmt;
use std::sync::{Mutex, PoisonError};

use burn::tensor::Tensor;
use fin_core::kernels::blocked::{Shape, Window, from_blocked, max_pool};
use fin_core::kernels::{Activation, slices};

use crate::architecture::CnnBackbone;
use crate::efficientnet::{EfficientNet, MbConv};
use crate::resnet::{Residual, ResNet};
use layers::{Dense, Depthwise, Excite, First, Map, Pool};

/// A network of packed layers.
pub(crate) struct Plan {
    first: First,
    body: Body,
    channels: usize,
    /// Kept from one batch to the next.
    pool: Mutex<Pool>,
}

enum Body {
    ResNet(Vec<Vec<ResidualPlan>>),
    EfficientNet(Vec<Vec<MbConvPlan>>, Dense),
}

/// [`Residual`].
struct ResidualPlan {
    convs: Vec<Dense>,
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
    pub(crate) fn new(network: &CnnBackbone) -> Option<Self> {
        let (first, channels, body) = match network {
            CnnBackbone::ResNet(network) => Self::resnet(network)?,
            CnnBackbone::EfficientNet(network) => Self::efficientnet(network)?,
            CnnBackbone::Blocked(_) => return None,
        };
        Some(Self {
            first,
            body,
            channels,
            pool: Mutex::default(),
        })
    }

    fn resnet(network: &ResNet) -> Option<(First, usize, Body)> {
        let residual = |block: &Residual| {
            let (last, convs) = block.convs.split_last()?;
            Some(ResidualPlan {
                convs: all(convs, |conv| Dense::new(conv, conv.activation))?,
                last: Dense::new(last, Activation::Relu)?,
                downsample: match &block.downsample {
                    Some(conv) => Some(Dense::new(conv, conv.activation)?),
                    None => None,
                },
            })
        };
        let stages = all(&network.stages, |stage| all(stage, residual))?;
        let channels = fin_core::Backbone::hidden_size(network);
        Some((First::new(&network.stem)?, channels, Body::ResNet(stages)))
    }

    fn efficientnet(network: &EfficientNet) -> Option<(First, usize, Body)> {
        let block = |block: &MbConv| {
            Some(MbConvPlan {
                expand: match &block.expand {
                    Some(conv) => Some(Dense::new(conv, conv.activation)?),
                    None => None,
                },
                depthwise: Depthwise::new(&block.depthwise)?,
                excite: match &block.squeeze_excite {
                    Some(layer) => Some(Excite::new(layer)?),
                    None => None,
                },
                project: Dense::new(&block.project, block.project.activation)?,
                shortcut: block.stochastic_depth.is_some(),
            })
        };
        let stages = all(&network.stages, |stage| all(stage, block))?;
        let head = Dense::new(&network.head, network.head.activation)?;
        let channels = fin_core::Backbone::hidden_size(network);
        let body = Body::EfficientNet(stages, head);
        Some((First::new(&network.stem)?, channels, body))
    }

    /// Channels of the last feature map.
    pub(crate) fn hidden_size(&self) -> usize {
        self.channels
    }

    /// The last feature map; none where the pixels are not where the kernels can read them.
    pub(crate) fn forward(&self, pixels: &Tensor<4>) -> Option<Tensor<4>> {
        slices::map(pixels, |values, shape| {
            let (values, shape) = self.with_pool(|pool| {
                let last = self.run(values, shape_of(shape), pool, &mut |_| ());
                let plain = plain(&last);
                pool.put(last);
                plain
            });
            (values, shape)
        })
    }

    /// The feature maps after the stem, every stage and the head.
    pub(crate) fn feature_maps(&self, pixels: &Tensor<4>) -> Option<Vec<Tensor<4>>> {
        let mut maps = Vec::new();
        let values = slices::values(pixels.clone())?;
        self.with_pool(|pool| {
            let mut seen = |map: &Map| maps.push(plain(map));
            let last = self.run(&values, shape_of(pixels.dims()), pool, &mut seen);
            pool.put(last);
        });
        let device = pixels.device();
        let tensor = |(values, shape): (Vec<f32>, [usize; 4])| {
            Tensor::from_data(burn::tensor::TensorData::new(values, shape), &device)
        };
        Some(maps.into_iter().map(tensor).collect())
    }

    fn with_pool<T>(&self, work: impl FnOnce(&mut Pool) -> T) -> T {
        // Another batch at the same time has memory of its own.
        let lock = || self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pool = std::mem::take(&mut *lock());
        let outcome = work(&mut pool);
        *lock() = pool;
        outcome
    }

    fn run(
        &self,
        pixels: &[f32],
        shape: Shape,
        pool: &mut Pool,
        seen: &mut dyn FnMut(&Map),
    ) -> Map {
        let x = self.first.run(pixels, shape, pool);
        seen(&x);
        match &self.body {
            Body::ResNet(stages) => {
                let window = Window::new(2, 1);
                let [height, width] = window.output(x.shape.height, x.shape.width, [3; 2]);
                let to = Shape {
                    height,
                    width,
                    ..x.shape
                };
                let mut pooled = Map::new(to, pool);
                max_pool(&x.values, x.shape, 3, window, &mut pooled.values);
                pool.put(x);
                stages.iter().fold(pooled, |x, stage| {
                    let x = stage.iter().fold(x, |x, block| block.run(x, pool));
                    seen(&x);
                    x
                })
            }
            Body::EfficientNet(stages, head) => {
                let x = stages.iter().fold(x, |x, stage| {
                    let x = stage.iter().fold(x, |x, block| block.run(x, pool));
                    seen(&x);
                    x
                });
                let y = head.run(&x, None, None, pool);
                seen(&y);
                pool.put(x);
                y
            }
        }
    }
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
        let mut branch: Option<Map> = None;
        for conv in &self.convs {
            let y = conv.run(branch.as_ref().unwrap_or(&x), None, None, pool);
            if let Some(before) = branch.replace(y) {
                pool.put(before);
            }
        }
        let shortcut = self.downsample.as_ref();
        let shortcut = shortcut.map(|conv| conv.run(&x, None, None, pool));
        let residual = shortcut.as_ref().unwrap_or(&x);
        let input = branch.as_ref().unwrap_or(&x);
        let y = self.last.run(input, Some(residual), None, pool);
        for map in [Some(x), branch, shortcut].into_iter().flatten() {
            pool.put(map);
        }
        y
    }
}

impl MbConvPlan {
    fn run(&self, x: Map, pool: &mut Pool) -> Map {
        let expand = self.expand.as_ref();
        let wide = expand.map(|conv| conv.run(&x, None, None, pool));
        let input = wide.as_ref().unwrap_or(&x);
        let (batch, channels) = (input.shape.batch, input.shape.channels);
        let mut means = vec![0.0; batch * channels];
        let excite = self.excite.as_ref();
        let wanted = excite.map(|_| &mut means[..]);
        let narrow = self.depthwise.run(input, wanted, pool);
        if let Some(wide) = wide {
            pool.put(wide);
        }
        let scale = excite.map(|layer| layer.run(&means, batch, pool));
        let residual = self.shortcut.then_some(&x);
        let y = self.project.run(&narrow, residual, scale.as_deref(), pool);
        pool.put(narrow);
        pool.put(x);
        y
    }
}
