//! Where nodes put what is below them.

use super::document::Node;
use crate::mesh::{cross, dot};

/// Columns of a linear map, and a translation.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Transform {
    columns: [[f64; 3]; 3],
    translation: [f64; 3],
}

impl Transform {
    pub(super) const IDENTITY: Self = Self {
        columns: [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        translation: [0.0; 3],
    };

    pub(super) fn of(node: &Node) -> Self {
        if let Some(m) = &node.matrix {
            return Self {
                columns: [[m[0], m[1], m[2]], [m[4], m[5], m[6]], [m[8], m[9], m[10]]],
                translation: [m[12], m[13], m[14]],
            };
        }
        let [x, y, z, w] = node
            .rotation
            .as_deref()
            .copied()
            .unwrap_or([0.0, 0.0, 0.0, 1.0]);
        let scale = node.scale.as_deref().copied().unwrap_or([1.0; 3]);
        let rotation = [
            [
                1.0 - 2.0 * (y * y + z * z),
                2.0 * (x * y + z * w),
                2.0 * (x * z - y * w),
            ],
            [
                2.0 * (x * y - z * w),
                1.0 - 2.0 * (x * x + z * z),
                2.0 * (y * z + x * w),
            ],
            [
                2.0 * (x * z + y * w),
                2.0 * (y * z - x * w),
                1.0 - 2.0 * (x * x + y * y),
            ],
        ];
        Self {
            columns: [0, 1, 2].map(|i| rotation[i].map(|value| value * scale[i])),
            translation: node.translation.as_deref().copied().unwrap_or_default(),
        }
    }

    /// This one after `inner`.
    pub(super) fn then(&self, inner: &Self) -> Self {
        Self {
            columns: inner.columns.map(|column| self.linear(column)),
            translation: self.point(inner.translation),
        }
    }

    pub(super) fn is_identity(&self) -> bool {
        *self == Self::IDENTITY
    }

    fn linear(&self, v: [f64; 3]) -> [f64; 3] {
        let [a, b, c] = &self.columns;
        [0, 1, 2].map(|i| a[i] * v[0] + b[i] * v[1] + c[i] * v[2])
    }

    pub(super) fn point(&self, point: [f64; 3]) -> [f64; 3] {
        let moved = self.linear(point);
        [0, 1, 2].map(|i| moved[i] + self.translation[i])
    }

    /// Of a surface through a point, with the same outside where the transformation mirrors.
    pub(super) fn normal(&self, normal: [f64; 3]) -> [f64; 3] {
        let [a, b, c] = self.columns;
        let sign = if self.mirrors() { -1.0 } else { 1.0 };
        let cofactors = [cross(b, c), cross(c, a), cross(a, b)];
        [0, 1, 2].map(|i| {
            sign * (0..3)
                .map(|column| cofactors[column][i] * normal[column])
                .sum::<f64>()
        })
    }

    pub(super) fn mirrors(&self) -> bool {
        let [a, b, c] = self.columns;
        dot(a, cross(b, c)) < 0.0
    }
}
