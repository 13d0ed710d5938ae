//! From token vectors, or the places of a feature map, to one vector an item.

use std::fmt;
use std::str::FromStr;

use burn::tensor::{Int, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How the token vectors of an item become one vector. Padding never takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The vector of the first token.
    Cls,
    /// Mean over tokens.
    Mean,
    /// Sum over tokens divided by the square root of their number.
    MeanSqrtLen,
    /// Largest value of each component over tokens.
    Max,
    /// The vector of the last token that is not padding.
    LastToken,
    /// Generalised mean `(mean(max(x, eps)^p))^(1/p)` with p = 3 and eps = 1e-6 (Radenović et
    /// al. 2018).
    Gem,
}

/// Exponent of [`Pooling::Gem`].
const GEM_P: f32 = 3.0;
/// Lower bound on values in [`Pooling::Gem`].
const GEM_EPS: f32 = 1e-6;
/// What stands in for padding in [`Pooling::Max`].
const BELOW_ALL: f32 = -1e9;

impl Pooling {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::Cls,
        Self::Mean,
        Self::MeanSqrtLen,
        Self::Max,
        Self::LastToken,
        Self::Gem,
    ];

    /// Name on the command line and in configuration files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cls => "cls",
            Self::Mean => "mean",
            Self::MeanSqrtLen => "mean_sqrt_len",
            Self::Max => "max",
            Self::LastToken => "last_token",
            Self::Gem => "gem",
        }
    }

    /// `hidden` `[batch, seq, hidden]` with `mask` `[batch, seq]` (1 for a token, 0 for padding,
    /// at least one token a row) → `[batch, hidden]`.
    pub fn forward(self, hidden: Tensor<3>, mask: Tensor<2>) -> Tensor<2> {
        let [batch, seq, width] = hidden.dims();
        let column = || mask.clone().reshape([batch, seq, 1]);
        let count = || mask.clone().sum_dim(1).clamp_min(1e-9);
        match self {
            Self::Cls => hidden.narrow(1, 0, 1).reshape([batch, width]),
            Self::Mean => (hidden * column()).sum_dim(1).reshape([batch, width]) / count(),
            Self::MeanSqrtLen => {
                (hidden * column()).sum_dim(1).reshape([batch, width]) / count().sqrt()
            }
            Self::Max => {
                let padding = column().equal_elem(0.0).expand([batch, seq, width]);
                hidden
                    .mask_fill(padding, BELOW_ALL)
                    .max_dim(1)
                    .reshape([batch, width])
            }
            Self::LastToken => {
                let positions = Tensor::<1, Int>::arange(1..seq as i64 + 1, &mask.device());
                let last = (mask * positions.float().reshape([1, seq])).argmax(1);
                let index = last.reshape([batch, 1, 1]).expand([batch, 1, width]);
                hidden.gather(1, index).reshape([batch, width])
            }
            Self::Gem => {
                let powered = hidden.clamp_min(GEM_EPS).powf_scalar(GEM_P);
                let mean = (powered * column()).sum_dim(1).reshape([batch, width]) / count();
                mean.powf_scalar(1.0 / GEM_P)
            }
        }
    }
}

impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Pooling {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|pooling| pooling.name() == text)
            .ok_or_else(|| {
                let names = Self::ALL.map(Self::name).join(", ");
                Error::argument(
                    "pooling",
                    format!("`{text}` is not a pooling; accepted: {names}"),
                )
            })
    }
}

/// How the places of a feature map become one vector an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MapPooling {
    /// Mean of each channel.
    #[default]
    Mean,
    /// Largest value of each channel.
    Max,
    /// As [`Pooling::Gem`].
    Gem,
}

impl MapPooling {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Mean, Self::Max, Self::Gem];

    /// Name on the command line and in configuration files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Max => "max",
            Self::Gem => "gem",
        }
    }

    /// `[batch, channels, height, width]` → `[batch, channels]`.
    pub fn forward(self, features: Tensor<4>) -> Tensor<2> {
        let [batch, channels, height, width] = features.dims();
        let features = features.reshape([batch, channels, height * width]);
        let pooled = match self {
            Self::Mean => features.mean_dim(2),
            Self::Max => features.max_dim(2),
            Self::Gem => {
                let powered = features.clamp_min(GEM_EPS).powf_scalar(GEM_P);
                powered.mean_dim(2).powf_scalar(1.0 / GEM_P)
            }
        };
        pooled.reshape([batch, channels])
    }
}

impl fmt::Display for MapPooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for MapPooling {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|pooling| pooling.name() == text)
            .ok_or_else(|| {
                let names = Self::ALL.map(Self::name).join(", ");
                Error::argument(
                    "pooling",
                    format!("`{text}` is not a pooling of feature maps; accepted: {names}"),
                )
            })
    }
}

/// Scales every row to unit length. Rows shorter than 1e-12 are divided by 1e-12, as
/// `torch.nn.functional.normalize` does.
pub fn l2_normalize(x: Tensor<2>) -> Tensor<2> {
    let norm = x.clone().square().sum_dim(1).sqrt().clamp_min(1e-12);
    x / norm
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn pool(pooling: Pooling) -> Vec<f32> {
        let device = Device::flex();
        // The third token of the first item is padding and must not matter.
        let hidden = Tensor::<3>::from_floats(
            [
                [[1.0, -2.0], [3.0, 4.0], [99.0, 99.0]],
                [[1.0, 1.0], [2.0, -2.0], [3.0, 0.5]],
            ],
            &device,
        );
        let mask = Tensor::<2>::from_floats([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]], &device);
        pooling
            .forward(hidden, mask)
            .into_data()
            .try_into_vec()
            .unwrap()
    }

    fn close(found: Vec<f32>, expected: [f32; 4]) {
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < 1e-5, "{found:?} against {expected:?}");
        }
    }

    #[test]
    fn each_kind_by_hand() {
        close(pool(Pooling::Cls), [1.0, -2.0, 1.0, 1.0]);
        close(pool(Pooling::Mean), [2.0, 1.0, 2.0, -0.5 / 3.0]);
        let (r2, r3) = (2f32.sqrt(), 3f32.sqrt());
        close(
            pool(Pooling::MeanSqrtLen),
            [4.0 / r2, 2.0 / r2, 6.0 / r3, -0.5 / r3],
        );
        close(pool(Pooling::Max), [3.0, 4.0, 3.0, 1.0]);
        close(pool(Pooling::LastToken), [3.0, 4.0, 3.0, 0.5]);
        let gem = [
            14f32.cbrt(),
            32f32.cbrt(),
            12f32.cbrt(),
            (1.125f32 / 3.0).cbrt(),
        ];
        close(pool(Pooling::Gem), gem);
    }

    #[test]
    fn names_round_trip_and_unknown_ones_list_what_is_accepted() {
        for pooling in Pooling::ALL {
            assert_eq!(pooling.name().parse::<Pooling>().unwrap(), pooling);
        }
        assert!(
            "avg"
                .parse::<Pooling>()
                .unwrap_err()
                .to_string()
                .contains("mean_sqrt_len")
        );
    }

    #[test]
    fn a_zero_row_stays_finite() {
        let x = Tensor::<2>::from_floats([[3.0, 4.0], [0.0, 0.0]], &Device::flex());
        let y: Vec<f32> = l2_normalize(x).into_data().try_into_vec().unwrap();
        assert_eq!(y, [0.6, 0.8, 0.0, 0.0]);
    }
}
