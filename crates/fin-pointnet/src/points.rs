//! Clouds in memory.

use std::sync::Arc;

use fin_core::{Error, Result};

use crate::augment::PointAugmentation;

/// A cloud of points in memory, row by row: `[points, 3]`, or `[points, 6]` with normals.
#[derive(Debug, Clone, PartialEq)]
pub struct Points {
    values: Arc<[f32]>,
    columns: usize,
}

impl Points {
    /// From values in row-major order; `columns` is 3, or 6 with normals.
    ///
    /// # Errors
    /// [`Error::Argument`] where there is no point, the number of values is not a multiple of the
    /// columns, or a value is not finite.
    pub fn new(values: impl Into<Arc<[f32]>>, columns: usize) -> Result<Self> {
        let values = values.into();
        let fault = |reason: String| Err(Error::argument("points", reason));
        if columns != 3 && columns != 6 {
            return fault(format!(
                "{columns} values a point; 3 are accepted, and 6 with normals"
            ));
        }
        if values.is_empty() || !values.len().is_multiple_of(columns) {
            return fault(format!(
                "{} values are not one or more rows of {columns}",
                values.len()
            ));
        }
        if let Some(i) = values.iter().position(|v| !v.is_finite()) {
            return fault(format!(
                "value {} of point {} is {}",
                i % columns,
                i / columns,
                values[i]
            ));
        }
        Ok(Self { values, columns })
    }

    /// From positions.
    ///
    /// # Errors
    /// As [`Points::new`].
    pub fn from_positions(positions: &[[f32; 3]]) -> Result<Self> {
        Self::new(positions.as_flattened(), 3)
    }

    /// From positions and a normal each.
    ///
    /// # Errors
    /// As [`Points::new`]; where there are not as many of both.
    pub fn from_oriented(positions: &[[f32; 3]], normals: &[[f32; 3]]) -> Result<Self> {
        if positions.len() != normals.len() {
            let reason = format!("{} normals of {} points", normals.len(), positions.len());
            return Err(Error::argument("points", reason));
        }
        let rows = positions.iter().zip(normals);
        let values: Vec<f32> = rows.flat_map(|(p, n)| [*p, *n]).flatten().collect();
        Self::new(values, 6)
    }

    /// Values in row-major order.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Values a point.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Number of points.
    pub fn len(&self) -> usize {
        self.values.len() / self.columns
    }

    /// Never true.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The same points without their normals, where `columns` is 3.
    pub(crate) fn with_columns(&self, columns: usize) -> Option<Self> {
        match (self.columns, columns) {
            (6, 3) => {
                let rows = self.values.chunks_exact(6);
                Some(Self {
                    values: rows.flat_map(|row| &row[..3]).copied().collect(),
                    columns,
                })
            }
            (own, wanted) => (own == wanted).then(|| self.clone()),
        }
    }

    /// Centred on the mean of the points and scaled so that the farthest has distance 1
    /// (`pc_normalize` upstream); points that all are in one place come to zero.
    pub fn in_unit_sphere(&self) -> Self {
        let mut values = self.values.to_vec();
        let count = self.len() as f64;
        let mut mean = [0.0f64; 3];
        for row in values.chunks_exact(self.columns) {
            for (mean, x) in mean.iter_mut().zip(row) {
                *mean += f64::from(*x) / count;
            }
        }
        let square = |row: &[f32]| -> f64 {
            let row = row[..3].iter().zip(mean);
            row.map(|(x, mean)| (f64::from(*x) - mean).powi(2)).sum()
        };
        let rows = values.chunks_exact(self.columns);
        let largest = rows.map(square).fold(0.0, f64::max).sqrt();
        let scale = if largest > 0.0 { 1.0 / largest } else { 0.0 };
        for row in values.chunks_exact_mut(self.columns) {
            for (x, mean) in row.iter_mut().zip(mean) {
                *x = ((f64::from(*x) - mean) * scale) as f32;
            }
        }
        Self {
            values: values.into(),
            columns: self.columns,
        }
    }
    /// With random changes.
    pub fn augmented(&self, augmentation: &PointAugmentation, seed: u64) -> Self {
        let mut values = self.values.to_vec();
        augmentation.apply(&mut values, self.columns, seed);
        Self {
            values: values.into(),
            columns: self.columns,
        }
    }
}
