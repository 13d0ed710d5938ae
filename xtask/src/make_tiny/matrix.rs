//! Matrices of embeddings: their files and their principal components.

use std::path::Path;

/// Row-major values with this many a row.
pub struct Matrix {
    pub values: Vec<f32>,
    pub width: usize,
}

impl Matrix {
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.width)
    }

    /// Reads what `fin encode` writes: NumPy's format 1.0 with little-endian `float32`.
    pub fn read(path: &Path) -> Result<Self, String> {
        let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let parse = || {
            let header = usize::from(u16::from_le_bytes([*bytes.get(8)?, *bytes.get(9)?]));
            let text = std::str::from_utf8(bytes.get(10..10 + header)?).ok()?;
            let shape = text.split_once("'shape': (")?.1.split_once(')')?.0;
            let (rows, width) = shape.split_once(", ")?;
            let (rows, width): (usize, usize) = (rows.parse().ok()?, width.parse().ok()?);
            let (values, rest) = bytes[10 + header..].as_chunks::<4>();
            let whole = text.contains("'<f4'") && rest.is_empty() && values.len() == rows * width;
            whole.then(|| Self {
                values: values
                    .iter()
                    .map(|value| f32::from_le_bytes(*value))
                    .collect(),
                width,
            })
        };
        parse().ok_or_else(|| format!("{}: not a matrix that fin wrote", path.display()))
    }

    /// Writes the same format.
    pub fn write(&self, path: &Path) -> Result<(), String> {
        let rows = self.values.len() / self.width;
        let mut header = format!(
            "{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {}), }}",
            self.width
        );
        while !(10 + header.len() + 1).is_multiple_of(64) {
            header.push(' ');
        }
        header.push('\n');
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.bytes());
        bytes.extend(self.values.iter().flat_map(|value| value.to_le_bytes()));
        std::fs::write(path, bytes).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// The product with `axes`, a row of coefficients an axis; rows scaled to unit length where
    /// `unit` says so.
    pub fn project(&self, axes: &[Vec<f64>], unit: bool) -> Self {
        let mut values = Vec::with_capacity(self.values.len() / self.width * axes.len());
        for row in self.rows() {
            let dot = |axis: &Vec<f64>| {
                let terms = axis.iter().zip(row).map(|(a, b)| a * f64::from(*b));
                terms.sum::<f64>()
            };
            let projected: Vec<f64> = axes.iter().map(dot).collect();
            let norm = projected.iter().map(|x| x * x).sum::<f64>().sqrt();
            let scale = if unit && norm > 0.0 { 1.0 / norm } else { 1.0 };
            values.extend(projected.iter().map(|x| (x * scale) as f32));
        }
        Self {
            values,
            width: axes.len(),
        }
    }

    /// The `count` axes along which the rows differ most (Pearson 1901), and the share of the
    /// variance along them.
    pub fn principal_axes(&self, count: usize) -> (Vec<Vec<f64>>, f64) {
        let width = self.width;
        let rows = (self.values.len() / width) as f64;
        let mut mean = vec![0.0; width];
        for row in self.rows() {
            mean.iter_mut()
                .zip(row)
                .for_each(|(m, x)| *m += f64::from(*x) / rows);
        }
        let mut covariance = vec![vec![0.0; width]; width];
        let mut centred = vec![0.0; width];
        for row in self.rows() {
            for ((x, value), mean) in centred.iter_mut().zip(row).zip(&mean) {
                *x = f64::from(*value) - mean;
            }
            for (i, (into, x)) in covariance.iter_mut().zip(&centred).enumerate() {
                let x = x / rows;
                let below = into[..=i].iter_mut().zip(&centred);
                below.for_each(|(c, y)| *c += x * y);
            }
        }
        for i in 0..width {
            let (above, rest) = covariance.split_at_mut(i);
            for (j, row) in above.iter_mut().enumerate() {
                row[i] = rest[0][j];
            }
        }
        let (values, vectors) = symmetric_eigen(covariance);
        let mut order: Vec<usize> = (0..width).collect();
        order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
        order.truncate(count);
        let kept: f64 = order.iter().map(|&i| values[i]).sum();
        let axes = order.iter().map(|&i| vectors[i].clone()).collect();
        (axes, kept / values.iter().sum::<f64>())
    }
}

/// Eigenvalues and unit eigenvectors, a row each, of a symmetric matrix: Jacobi's rotations (1846)
/// in cyclic order until what is off the diagonal is a rounding error.
fn symmetric_eigen(mut a: Vec<Vec<f64>>) -> (Vec<f64>, Vec<Vec<f64>>) {
    let n = a.len();
    let mut vectors: Vec<Vec<f64>> = (0..n)
        .map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect())
        .collect();
    for _ in 0..60 {
        let square = |i: usize, j: usize| a[i][j] * a[i][j];
        let off: f64 = (0..n)
            .flat_map(|i| (0..i).map(move |j| (i, j)))
            .map(|(i, j)| square(i, j))
            .sum();
        let diagonal: f64 = (0..n).map(|i| square(i, i)).sum();
        if off <= 1e-24 * diagonal {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                if a[p][q] == 0.0 {
                    continue;
                }
                let theta = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
                let sign = if theta < 0.0 { -1.0 } else { 1.0 };
                let t = sign / (theta.abs() + (theta * theta + 1.0).sqrt());
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                // Rows, then columns; both stay symmetric.
                rotate(&mut a, p, q, c, s);
                for row in &mut a {
                    let (x, y) = (row[p], row[q]);
                    row[p] = c * x - s * y;
                    row[q] = s * x + c * y;
                }
                rotate(&mut vectors, p, q, c, s);
            }
        }
    }
    ((0..n).map(|i| a[i][i]).collect(), vectors)
}

fn rotate(rows: &mut [Vec<f64>], p: usize, q: usize, c: f64, s: f64) {
    let (head, tail) = rows.split_at_mut(q);
    for (x, y) in head[p].iter_mut().zip(&mut tail[0]) {
        (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eigenvectors_satisfy_their_equation() {
        let a = vec![
            vec![4.0, 1.0, -2.0],
            vec![1.0, 2.0, 0.5],
            vec![-2.0, 0.5, 3.0],
        ];
        let (values, vectors) = symmetric_eigen(a.clone());
        for (value, vector) in values.iter().zip(&vectors) {
            for (row, x) in a.iter().zip(vector) {
                let product: f64 = row.iter().zip(vector).map(|(a, b)| a * b).sum();
                assert!((product - value * x).abs() < 1e-12, "{values:?}");
            }
            let norm: f64 = vector.iter().map(|x| x * x).sum();
            assert!((norm - 1.0).abs() < 1e-12);
        }
        assert!((values.iter().sum::<f64>() - 9.0).abs() < 1e-12);
    }

    #[test]
    fn the_first_axis_is_that_of_the_spread() {
        let values = vec![1.0, 1.1, 2.0, 2.0, 3.0, 2.9, 4.0, 4.0];
        let matrix = Matrix { values, width: 2 };
        let (axes, share) = matrix.principal_axes(1);
        assert!(
            (axes[0][0] / axes[0][1] - 1.0).abs() < 0.1 && share > 0.99,
            "{axes:?}"
        );
        let unit = matrix.project(&axes, true);
        assert!(unit.values.iter().all(|x| (x.abs() - 1.0).abs() < 1e-6));
    }
}
