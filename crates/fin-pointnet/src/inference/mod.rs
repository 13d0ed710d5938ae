//! PointNet++ at inference on `flex`: batch normalisations taken into the layers before them,
//! weights packed once, clouds one by one on slices.
//!
//! - A group's points are taken once: what fills it up to the number of neighbours are copies of its
//!   first, which do not change the maximum over it.
//! - The first layer of a set abstraction is linear before its ReLU, so its part that sees features
//!   is computed once a point, not once a group that the point is in; the part that sees the place
//!   within the group, three multiplications, is added where rows are gathered.
//! - Groups go through all layers a few hundred rows at a time, in memory that stays in the cache;
//!   of a group nothing is kept but its maximum.

use std::cell::RefCell;
use std::fmt;

use burn::tensor::{Tensor, TensorData};
use fin_core::kernels::blocked::{
    BLOCK, Buffer, PackedConv, pack, points, points_from, points_max,
};
use fin_core::kernels::neighbours::Cloud;
use fin_core::kernels::{self, Activation, slices};
use rayon::prelude::*;

use crate::architecture::{Grouping, PointBackbone};
use crate::layers::{ConvNorm, PointNet2, SetAbstraction, SharedMlp};
use crate::query::{self, Start};

/// Rows that go through the layers of a neighbourhood together, at least.
const ROWS: usize = 256;

/// Groups of a task.
const GROUPS: usize = 16;

/// Points of the last level of a task.
const GLOBAL_ROWS: usize = 64;

/// A network of packed layers.
pub(crate) struct Plan {
    levels: Vec<Level>,
    /// The layers after the last level, the first of which sees coordinates and features.
    global: Vec<PackedConv>,
    /// `[embedding_size, global]` and `[embedding_size]`, the normalisation taken in.
    first_stage: (Tensor<2>, Tensor<1>),
    columns: usize,
}

/// A set abstraction.
struct Level {
    points: usize,
    scales: Vec<Scale>,
    outputs: usize,
}

/// A neighbourhood and its layers.
struct Scale {
    /// The square of the radius.
    limit: f32,
    neighbours: usize,
    /// The first layer's weights of the place within a group, `[out/16, 3, 16]`.
    offsets: Vec<f32>,
    base: Base,
    /// Channels of the first layer.
    width: usize,
    /// The layers after it.
    rest: Vec<PackedConv>,
    outputs: usize,
}

/// What the first layer adds to a row beside its place.
enum Base {
    /// The bias alone, filled up to blocks.
    Bias(Vec<f32>),
    /// A linear map of the point's features.
    Features(PackedConv),
}

/// What a thread works in.
#[derive(Default)]
struct Scratch {
    index: Vec<u32>,
    offsets: Vec<[f32; 3]>,
    ends: Vec<usize>,
    room: Vec<u32>,
    maps: [Option<Buffer>; 2],
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("levels", &self.levels.len())
            .field("columns", &self.columns)
            .finish_non_exhaustive()
    }
}

/// Weights `[out, in]` and bias `[out]` of a layer with its normalisation taken in.
struct Folded {
    weight: Vec<f32>,
    bias: Vec<f32>,
    inputs: usize,
}

impl Folded {
    /// None where the weights do not lie where slices can be had.
    fn new(layer: &ConvNorm) -> Option<Self> {
        let weight = layer.conv.weight.val().without_autodiff();
        let [_, inputs, _, _] = weight.dims();
        let (scale, shift) = layer.norm.scale_and_shift();
        let [scale, shift] = [scale, shift].map(|x| slices::values(x.without_autodiff()));
        let (scale, mut bias) = (scale?, shift?);
        let mut weight = slices::values(weight)?;
        if let Some(own) = &layer.conv.bias {
            let own = slices::values(own.val().without_autodiff())?;
            for ((bias, own), scale) in bias.iter_mut().zip(own).zip(&scale) {
                *bias += own * scale;
            }
        }
        for (row, scale) in weight.chunks_exact_mut(inputs).zip(scale) {
            row.iter_mut().for_each(|w| *w *= scale);
        }
        Some(Self {
            weight,
            bias,
            inputs,
        })
    }

    fn pack(&self) -> PackedConv {
        let out = self.bias.len();
        pack(&self.weight, Some(&self.bias), out, self.inputs, 1, 1)
    }
}

fn packed(mlp: &[ConvNorm]) -> Option<Vec<PackedConv>> {
    let layers = mlp.iter();
    layers
        .map(|layer| Some(Folded::new(layer)?.pack()))
        .collect()
}

impl Scale {
    fn new(mlp: &SharedMlp, radius: f64, neighbours: usize, grouping: Grouping) -> Option<Self> {
        let (first, rest) = mlp.layers.split_first()?;
        let first = Folded::new(first)?;
        let width = first.bias.len();
        let channels = first.inputs.checked_sub(3)?;
        // Columns of the coordinates and of the features.
        let (place, features) = match grouping {
            Grouping::SingleScale => (0, 3),
            Grouping::MultiScale => (channels, 0),
        };
        let mut offsets = vec![0.0; width.div_ceil(BLOCK) * 3 * BLOCK];
        let mut weight = Vec::with_capacity(width * channels);
        for (o, row) in first.weight.chunks_exact(first.inputs).enumerate() {
            for axis in 0..3 {
                offsets[(o / BLOCK * 3 + axis) * BLOCK + o % BLOCK] = row[place + axis];
            }
            weight.extend_from_slice(&row[features..features + channels]);
        }
        let base = if channels == 0 {
            let mut bias = first.bias;
            bias.resize(width.next_multiple_of(BLOCK), 0.0);
            Base::Bias(bias)
        } else {
            Base::Features(pack(&weight, Some(&first.bias), width, channels, 1, 1))
        };
        let rest = packed(rest)?;
        Some(Self {
            limit: query::limit(radius),
            neighbours,
            offsets,
            base,
            width,
            outputs: rest.last().map_or(width, |layer| layer.channels()[0]),
            rest,
        })
    }

    /// What the first layer adds for every point, in blocks, and of how many points that is.
    fn base(&self, features: Option<&[f32]>, count: usize) -> (Buffer, usize) {
        match (&self.base, features) {
            (Base::Features(weight), Some(features)) => {
                let mut base = Buffer::new(self.width.div_ceil(BLOCK) * count * BLOCK);
                points(features, count, weight, Activation::Identity, &mut base);
                (base, count)
            }
            (Base::Bias(bias), _) => {
                let mut base = Buffer::new(bias.len());
                base.copy_from_slice(bias);
                (base, 1)
            }
            (Base::Features(_), None) => unreachable!("features are made where they are seen"),
        }
    }

    /// Groups around some of the points into rows of `stride` floats.
    fn run(
        &self,
        cloud: &Cloud,
        (base, points): &(Buffer, usize),
        centres: &[u32],
        stride: usize,
        out: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let Scratch {
            index,
            offsets,
            ends,
            room,
            maps,
        } = scratch;
        room.resize(self.neighbours, 0);
        let mut first = 0;
        for (place, centre) in centres.iter().enumerate() {
            if place == first {
                index.clear();
                offsets.clear();
                ends.clear();
            }
            let centre = cloud.point(*centre as usize);
            let count = query::group(cloud, centre, self.limit, room);
            for i in &room[..count] {
                let point = cloud.point(*i as usize);
                index.push(if *points == 1 { 0 } else { *i });
                offsets.push([0, 1, 2].map(|axis| point[axis] - centre[axis]));
            }
            ends.push(index.len());
            if index.len() >= ROWS || place + 1 == centres.len() {
                let rows = index.len();
                let first_layer = self.width.div_ceil(BLOCK) * rows * BLOCK;
                let enter = |y: &mut [f32]| {
                    points_from(base, *points, &self.offsets, index, offsets, y);
                };
                let last = through(first_layer, enter, &self.rest, rows, maps);
                let out = &mut out[first * stride..];
                points_max(last, rows, ends, self.outputs, stride, out);
                first = place + 1;
            }
        }
    }
}

/// What `enter` writes, `len` floats of `rows` rows, through layers with ReLU.
fn through<'a>(
    len: usize,
    enter: impl FnOnce(&mut [f32]),
    layers: &[PackedConv],
    rows: usize,
    maps: &'a mut [Option<Buffer>; 2],
) -> &'a [f32] {
    let [x, y] = maps;
    let (mut x, mut y) = (
        x.get_or_insert_with(|| Buffer::new(0)),
        y.get_or_insert_with(|| Buffer::new(0)),
    );
    x.resize(len);
    enter(x);
    for layer in layers {
        y.resize(layer.channels()[0].div_ceil(BLOCK) * rows * BLOCK);
        points(x, rows, layer, Activation::Relu, y);
        std::mem::swap(&mut x, &mut y);
    }
    x
}

impl Level {
    fn new(abstraction: &SetAbstraction) -> Option<Self> {
        let scales = abstraction.config.scales.iter().zip(&abstraction.scales);
        let scales: Vec<Scale> = scales
            .map(|(config, mlp)| {
                let (radius, neighbours) = (config.radius, config.neighbours);
                Scale::new(mlp, radius, neighbours, abstraction.grouping)
            })
            .collect::<Option<_>>()?;
        Some(Self {
            points: abstraction.config.points,
            outputs: scales.iter().map(|scale| scale.outputs).sum(),
            scales,
        })
    }

    /// The points that are kept, and their features row by row.
    fn run(&self, cloud: &Cloud, features: Option<&[f32]>) -> (Cloud, Vec<f32>) {
        let start = Start::default().of(1, cloud.len())[0];
        let kept = cloud.farthest(self.points, start);
        let bases: Vec<(Buffer, usize)> = self
            .scales
            .iter()
            .map(|scale| scale.base(features, cloud.len()))
            .collect();
        let mut out = vec![0.0; self.points * self.outputs];
        out.par_chunks_mut(GROUPS * self.outputs)
            .zip(kept.par_chunks(GROUPS))
            .for_each(|(out, centres)| {
                SCRATCH.with_borrow_mut(|scratch| {
                    let mut first = 0;
                    for (scale, base) in self.scales.iter().zip(&bases) {
                        let out = &mut out[first..];
                        scale.run(cloud, base, centres, self.outputs, out, scratch);
                        first += scale.outputs;
                    }
                });
            });
        let places = kept.iter().flat_map(|i| cloud.point(*i as usize));
        let places: Vec<f32> = places.collect();
        (Cloud::new(&places, 3), out)
    }
}

/// Rows of `width` values of which those from `skip` on are taken, in blocks of channels.
fn in_blocks(rows: &[f32], width: usize, skip: usize, out: &mut [f32]) {
    let count = rows.len() / width;
    for (r, row) in rows.chunks_exact(width).enumerate() {
        for (block, values) in row[skip..].chunks(BLOCK).enumerate() {
            let out = &mut out[(block * count + r) * BLOCK..][..BLOCK];
            out[..values.len()].copy_from_slice(values);
            out[values.len()..].fill(0.0);
        }
    }
}

impl Plan {
    /// Folds and packs a network; none where its weights are not on `flex`.
    pub(crate) fn new(network: &PointBackbone) -> Option<Self> {
        let PointBackbone::Full(network) = network else {
            return None;
        };
        let levels = network.levels.iter().map(Level::new);
        Some(Self {
            levels: levels.collect::<Option<_>>()?,
            global: packed(&network.global.layers)?,
            first_stage: first_stage(network)?,
            columns: network.columns,
        })
    }

    pub(crate) fn global_size(&self) -> usize {
        self.global.last().map_or(0, |layer| layer.channels()[0])
    }

    pub(crate) fn embedding_size(&self) -> usize {
        self.first_stage.1.dims()[0]
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// None where the points are not where slices can be had.
    pub(crate) fn global(&self, x: &Tensor<3>) -> Option<Tensor<2>> {
        let [batch, count, columns] = x.dims();
        assert!(
            columns >= self.columns && count > 0,
            "points are [{batch}, {count}, {columns}]; at least one a cloud, of {} values, is needed",
            self.columns
        );
        let width = self.global_size();
        let values = slices::values(x.clone())?;
        let mut out = vec![0.0; batch * width];
        out.par_chunks_mut(width)
            .zip(values.par_chunks(count * columns))
            .for_each(|(out, rows)| self.cloud(rows, columns, out));
        let data = TensorData::new(out, [batch, width]);
        Some(Tensor::from_data(data, &x.device()))
    }

    /// One cloud.
    fn cloud(&self, rows: &[f32], columns: usize, out: &mut [f32]) {
        let mut cloud = Cloud::new(rows, columns);
        let mut features = (self.columns == 6).then(|| {
            let mut normals = Buffer::new(cloud.len() * BLOCK);
            let rows: Vec<f32> = rows
                .chunks_exact(columns)
                .flat_map(|row| &row[3..6])
                .copied()
                .collect();
            in_blocks(&rows, 3, 0, &mut normals);
            normals
        });
        let mut last = Vec::new();
        for (i, level) in self.levels.iter().enumerate() {
            (cloud, last) = level.run(&cloud, features.as_deref());
            if i + 1 < self.levels.len() {
                let blocks = level.outputs.div_ceil(BLOCK);
                let mut next = Buffer::new(blocks * cloud.len() * BLOCK);
                in_blocks(&last, level.outputs, 0, &mut next);
                features = Some(next);
            }
        }
        let width = self.levels.last().map_or(0, |level| level.outputs);
        let count = cloud.len();
        let rows: Vec<f32> = (0..count)
            .flat_map(|i| {
                let features = &last[i * width..(i + 1) * width];
                cloud.point(i).into_iter().chain(features.iter().copied())
            })
            .collect();
        let width = 3 + width;
        // Each part's maximum, and of those the maximum.
        let parts: Vec<Vec<f32>> = rows
            .par_chunks(GLOBAL_ROWS * width)
            .map(|rows| {
                let count = rows.len() / width;
                let mut out = vec![0.0; self.global_size()];
                SCRATCH.with_borrow_mut(|scratch| {
                    let len = width.div_ceil(BLOCK) * count * BLOCK;
                    let enter = |x: &mut [f32]| in_blocks(rows, width, 0, x);
                    let last = through(len, enter, &self.global, count, &mut scratch.maps);
                    points_max(last, count, &[count], out.len(), out.len(), &mut out);
                });
                out
            })
            .collect();
        for part in parts {
            for (y, x) in out.iter_mut().zip(part) {
                // A NaN stays; nothing is below zero.
                *y = if *y > x || y.is_nan() { *y } else { x };
            }
        }
    }

    /// None where the features are not where slices can be had.
    pub(crate) fn first_stage(&self, global: &Tensor<2>) -> Option<Tensor<2>> {
        slices::takes(global).then(|| {
            let (weight, bias) = self.first_stage.clone();
            kernels::linear(global.clone(), weight, Some(bias), Activation::Identity)
        })
    }
}

/// The classifier's first stage as one linear map.
fn first_stage(network: &PointNet2) -> Option<(Tensor<2>, Tensor<1>)> {
    let (scale, shift) = network.bn1.scale_and_shift();
    let [scale, shift] = [scale, shift].map(Tensor::without_autodiff);
    let weight = network.fc1.weight.val().without_autodiff();
    let bias = match &network.fc1.bias {
        Some(bias) => shift + bias.val().without_autodiff() * scale.clone(),
        None => shift,
    };
    let weight = weight * scale.reshape([-1, 1]);
    slices::takes(&weight).then_some((weight, bias))
}
