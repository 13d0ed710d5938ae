//! Multi-head attention at inference, for 32 queries at a time.
//!
//! Scores lie as `[keys, 32]`, a lane a query: that is how tiles of the matrix product ([`super::product`])
//! come out of the registers and how they take their left operand, so that neither is turned or copied, and
//! maxima and sums over the keys need no sums across a vector. Keys after the last that is not masked are not
//! looked at: their share is zero.

use std::cell::Cell;

use rayon::prelude::*;

use super::blocked::memory::{Buffer, Shared};
use super::blocked::vector::Isa;
use super::product::{Kernels, Matrix, ROWS, Tile};
use super::{MASKED_SCORE, simd};

/// Where the tokens of the items of a batch lie.
pub(super) enum Items<'a> {
    /// As many in every item, with a bias of every key, `[batch, seq]`.
    Padded { seq: usize, key_bias: &'a [f32] },
    /// So many of each item, one after another.
    Packed(&'a [usize]),
}

/// What is said of an attention besides queries, keys and values.
pub(super) struct Heads<'a> {
    pub(super) items: Items<'a>,
    /// Columns of all heads.
    pub(super) hidden: usize,
    pub(super) heads: usize,
    /// Of scores.
    pub(super) scale: f32,
    /// `[heads, longest, longest]`, of as many tokens as the longest item has, or more.
    pub(super) position: Option<(&'a [f32], usize)>,
}

thread_local! {
    /// Memory of a task; taken while in use, as a thread that waits may begin another.
    static SCRATCH: Cell<Option<Buffer>> = const { Cell::new(None) };
}

/// `softmax(scale · q·kᵀ + position + key_bias)·v` of every head: `q`, `k`, `v` and `out` are
/// `[tokens, heads · head_dim]`.
///
/// Panics where a length does not fit.
pub(super) fn attention(q: &[f32], k: &[f32], v: &[f32], of: &Heads, out: &mut [f32]) {
    run(Isa::detect(), q, k, v, of, out);
}

fn run(isa: Isa, q: &[f32], k: &[f32], v: &[f32], of: &Heads, out: &mut [f32]) {
    let hidden = of.hidden;
    assert!(
        of.heads > 0 && hidden.is_multiple_of(of.heads),
        "attention: {hidden} does not split into {} heads",
        of.heads
    );
    // First token and number of tokens of every item.
    let mut spans = Vec::new();
    match of.items {
        Items::Padded { seq, key_bias } => {
            let batch = key_bias.len() / seq.max(1);
            assert_eq!(key_bias.len(), batch * seq, "attention: key bias shape");
            spans.extend((0..batch).map(|i| (i * seq, seq)));
        }
        Items::Packed(lengths) => {
            let mut first = 0;
            for length in lengths {
                spans.push((first, *length));
                first += length;
            }
        }
    }
    let tokens: usize = spans.iter().map(|(_, length)| length).sum();
    assert!(
        [q.len(), k.len(), v.len(), out.len()] == [tokens * hidden; 4],
        "attention: {tokens} tokens of {hidden} columns, but {} queries, {} keys and {} values",
        q.len(),
        k.len(),
        v.len()
    );
    let longest = spans.iter().map(|(_, length)| *length).max().unwrap_or(0);
    if let Some((position, side)) = of.position {
        assert!(
            side >= longest && position.len() == of.heads * side * side,
            "attention: position bias shape"
        );
    }
    if out.is_empty() {
        return;
    }
    let kernels = Kernels::new(isa);
    let width = hidden / of.heads;
    let shared = Shared::new(out);
    let unmasked = vec![0.0; longest];
    let task = |number: usize| {
        let ((first, seq), head) = (spans[number / of.heads], number % of.heads);
        if seq == 0 {
            return;
        }
        let [q, k, v] = [q, k, v].map(|x| {
            let columns = &x[first * hidden..][..seq * hidden][head * width..];
            Matrix::new(columns, [seq, width], [hidden, 1])
        });
        let position = of.position.map(|(position, side)| {
            let of_head = &position[head * side * side..][..side * side];
            Matrix::new(of_head, [seq, seq], [side, 1])
        });
        let bias = match of.items {
            Items::Padded { key_bias, .. } => &key_bias[first..][..seq],
            Items::Packed(_) => &unmasked[..seq],
        };
        let keys = bias.iter().rposition(|bias| *bias > MASKED_SCORE);
        let keys = keys.map_or(seq, |last| last + 1);
        let one = One {
            kernels,
            q,
            bias: &bias[..keys],
            position,
            scale: of.scale,
        };
        // SAFETY: the columns of a head of an item belong to this task alone, and `out` is as long as
        // all items.
        unsafe {
            let start = shared.get().add(first * hidden + head * width);
            one.run(k, v, start, hidden);
        }
    };
    let tasks = spans.len() * of.heads;
    // What a task takes is worth more than handing it to another thread.
    if tasks == 1 || longest * longest * width < 1 << 12 {
        (0..tasks).for_each(task);
    } else {
        (0..tasks).into_par_iter().for_each(task);
    }
}

/// One head of an item.
struct One<'a> {
    kernels: Kernels,
    q: Matrix<'a>,
    /// As long as there are keys to look at.
    bias: &'a [f32],
    position: Option<Matrix<'a>>,
    scale: f32,
}

impl One<'_> {
    /// Writes `[seq, width]` to rows so far apart.
    ///
    /// # Safety
    /// That many rows of `width` floats are writable at `out`, and nobody else has them.
    unsafe fn run(&self, k: Matrix, v: Matrix, out: *mut f32, apart: usize) {
        let [seq, width] = self.q.shape();
        let keys = self.bias.len();
        let mut memory = SCRATCH.take().unwrap_or_else(|| Buffer::new(0));
        let square = keys * ROWS;
        memory.resize(2 * keys * width + width * ROWS + 2 * square);
        let (packed_k, rest) = memory.split_at_mut(keys * width);
        let (packed_v, rest) = rest.split_at_mut(keys * width);
        let (queries, rest) = rest.split_at_mut(width * ROWS);
        let (scores, position) = rest.split_at_mut(square);
        for (x, packed) in [(k, &mut *packed_k), (v, &mut *packed_v)] {
            for (row, packed) in packed.chunks_exact_mut(width).enumerate() {
                packed.copy_from_slice(x.row(row));
            }
        }
        let most = self.kernels.wide.len();
        // Columns of the output by tiles of about one size.
        let across = width.div_ceil(width.div_ceil(most));
        for first in (0..seq).step_by(ROWS) {
            let rows = (seq - first).min(ROWS);
            let kernels = match rows {
                0..=16 => self.kernels.narrow,
                _ => self.kernels.wide,
            };
            // SAFETY: the table has kernels for this processor alone; row `first` is one of the queries,
            // which have `width` columns, and of the positions, which have `seq`.
            unsafe {
                (self.kernels.copy)(&self.q, first, 0..width, queries);
                if let Some(x) = &self.position {
                    (self.kernels.copy)(x, first, 0..keys, position);
                }
            }
            for key in (0..keys).step_by(most) {
                let count = most.min(keys - key);
                // SAFETY: `queries` holds `width` times 32 floats, `packed_k` `width` floats for each of
                // `keys`, and `scores` 32.
                unsafe {
                    kernels[count - 1](&Tile {
                        left: queries.as_ptr(),
                        depth: width,
                        right: packed_k.as_ptr().add(key * width),
                        column: width,
                        step: 1,
                        bias: std::ptr::null(),
                        out: scores.as_mut_ptr().add(key * ROWS),
                        row: 1,
                        across: ROWS,
                        rows,
                        onto: false,
                    });
                }
            }
            let mut shares = [0.0; ROWS];
            let position = self.position.is_some().then_some(&*position);
            simd::softmax_lanes(scores, self.bias, position, self.scale, &mut shares);
            for column in (0..width).step_by(across) {
                let count = across.min(width - column);
                // SAFETY: `scores` holds 32 floats for each of `keys`, `packed_v` a row of `width`; rows
                // and columns of the output are writable by the contract.
                unsafe {
                    kernels[count - 1](&Tile {
                        left: scores.as_ptr(),
                        depth: keys,
                        right: packed_v.as_ptr().add(column),
                        column: 1,
                        step: width,
                        bias: std::ptr::null(),
                        out: out.add(first * apart + column),
                        row: apart,
                        across: 1,
                        rows,
                        onto: false,
                    });
                }
            }
            for (row, share) in shares.iter().enumerate().take(rows) {
                // SAFETY: by the contract.
                let row = unsafe {
                    std::slice::from_raw_parts_mut(out.add((first + row) * apart), width)
                };
                row.iter_mut().for_each(|x| *x *= share);
            }
        }
        SCRATCH.set(Some(memory));
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    fn values(count: usize, seed: u32) -> Vec<f32> {
        let mut values = testing::values(count, seed);
        values.iter_mut().for_each(|x| *x *= 2.0);
        values
    }

    #[test]
    fn every_instruction_set_gives_what_the_formula_does_in_double_precision() {
        let shapes = [
            (1, 1, 1, 1),
            (2, 5, 3, 7),
            (2, 16, 1, 32),
            (1, 33, 2, 64),
            (3, 70, 2, 15),
        ];
        for &(batch, seq, heads, width) in testing::cases(&shapes, &[(1, 3, 2, 5)]) {
            let hidden = heads * width;
            let [q, k, v] = [1, 2, 3].map(|seed| values(batch * seq * hidden, seed));
            let positions = values(heads * seq * seq, 4);
            // The last item is all padding, others have one token less each.
            let mut bias = vec![0.0; batch * seq];
            for (place, bias) in bias.iter_mut().enumerate() {
                let (i, token) = (place / seq, place % seq);
                if i > 0 && (token + i >= seq || i + 1 == batch) {
                    *bias = MASKED_SCORE;
                }
            }
            for position in [None, Some(positions.as_slice())] {
                let of = Heads {
                    items: Items::Padded {
                        seq,
                        key_bias: &bias,
                    },
                    hidden,
                    heads,
                    scale: 0.3,
                    position: position.map(|position| (position, seq)),
                };
                for isa in Isa::available() {
                    let mut out = vec![f32::NAN; q.len()];
                    run(isa, &q, &k, &v, &of, &mut out);
                    for i in 0..batch * seq * heads {
                        let (item, token, head) = (i / heads / seq, i / heads % seq, i % heads);
                        let row = |x: &[f32], token: usize| {
                            x[(item * seq + token) * hidden + head * width..][..width].to_vec()
                        };
                        let query = row(&q, token);
                        let scores = (0..seq).map(|key| {
                            let of_key = row(&k, key);
                            let products = query.iter().zip(&of_key);
                            let product: f64 =
                                products.map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                            let position =
                                position.map_or(0.0, |p| p[(head * seq + token) * seq + key]);
                            let padding = bias[item * seq + key];
                            0.3f32 as f64 * product + f64::from(position) + f64::from(padding)
                        });
                        let scores: Vec<f64> = scores.collect();
                        let max = scores.iter().copied().fold(f64::MIN, f64::max);
                        let shares: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
                        let total: f64 = shares.iter().sum();
                        for (column, found) in row(&out, token).into_iter().enumerate() {
                            let terms = shares.iter().enumerate().map(|(key, share)| {
                                share / total * f64::from(row(&v, key)[column])
                            });
                            let error = (f64::from(found) - terms.sum::<f64>()).abs();
                            // Of an item of padding alone scores have no digits left beside the mask.
                            let is_padding = batch > 1 && item + 1 == batch;
                            assert!(
                                error < 3e-6 || is_padding,
                                "{isa:?} {seq} {heads}x{width} at {i}, {column}: {found}, {error} off"
                            );
                            assert!(found.is_finite());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn packed_items_are_what_they_are_alone() {
        let (lengths, heads, width) = ([3, 0, 20, 1], 2, 8);
        let (hidden, side) = (heads * width, 22);
        let [q, k, v] = [1, 2, 3].map(|seed| values(24 * hidden, seed));
        let positions = values(heads * side * side, 4);
        fn of<'a>(items: Items<'a>, position: (&'a [f32], usize)) -> Heads<'a> {
            Heads {
                items,
                hidden: 16,
                heads: 2,
                scale: 0.3,
                position: Some(position),
            }
        }
        let mut found = vec![f32::NAN; q.len()];
        attention(
            &q,
            &k,
            &v,
            &of(Items::Packed(&lengths), (&positions, side)),
            &mut found,
        );
        let mut first = 0;
        for seq in lengths {
            // The corner of the positions that the item has.
            let rows = positions.chunks_exact(side).enumerate();
            let corner: Vec<f32> = rows
                .filter(|(row, _)| row % side < seq)
                .flat_map(|(_, row)| row[..seq].to_vec())
                .collect();
            let [q, k, v] = [&q, &k, &v].map(|x| &x[first * hidden..][..seq * hidden]);
            let mut alone = vec![f32::NAN; seq * hidden];
            let key_bias = vec![0.0; seq];
            let items = Items::Padded {
                seq,
                key_bias: &key_bias,
            };
            attention(q, k, v, &of(items, (&corner, seq)), &mut alone);
            assert_eq!(alone, found[first * hidden..][..seq * hidden]);
            first += seq;
        }
    }
}
