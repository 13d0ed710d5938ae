//! Embeddings of earlier batches, which losses on labelled items compare a batch with.

use std::path::Path;

use fin_core::weights::{self, Checkpoint};
use fin_core::{Error, Result};

/// Names in files, those of the reference library.
const EMBEDDINGS: &str = "embedding_memory";
const LABELS: &str = "label_memory";
const NEXT: &str = "queue_idx";
/// Classes up to which a number in single precision holds a label.
const MAX_CLASSES: usize = 1 << 24;

/// A queue of the newest embeddings with their labels (Wang et al. 2020, "Cross-batch memory for
/// embedding learning"; `CrossBatchMemory` of pytorch-metric-learning).
///
/// A batch is put into it first, in the place of the oldest items where it is full, and is then
/// compared with all that it holds, each item but with itself. No gradient flows through what it
/// holds. Embeddings are kept as they are, on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Memory {
    size: usize,
    /// Width of an embedding; 0 as long as there are none.
    dim: usize,
    values: Vec<f32>,
    labels: Vec<usize>,
    next: usize,
}

impl Memory {
    /// With room for this many embeddings.
    ///
    /// # Errors
    /// [`Error::Argument`] where there is none.
    pub fn new(size: usize) -> Result<Self> {
        if size == 0 {
            let reason = "0 is too small; the batch size or more is needed";
            return Err(Error::argument("memory", reason));
        }
        Ok(Self {
            size,
            dim: 0,
            values: Vec::new(),
            labels: Vec::new(),
            next: 0,
        })
    }

    /// Largest number of embeddings.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Number of embeddings that there are.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none yet.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Width of an embedding; 0 where there are none yet.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The embeddings by slot, row-major: `[len, dim]`.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// A class a slot.
    pub fn labels(&self) -> &[usize] {
        &self.labels
    }

    /// Puts a batch in, row-major with a class a row, and returns the slot of each item.
    ///
    /// # Errors
    /// [`Error::Argument`] where the batch is empty, larger than the memory or of another width.
    pub fn push(&mut self, values: &[f32], labels: &[usize]) -> Result<Vec<usize>> {
        let dim = values.len().checked_div(labels.len()).unwrap_or(0);
        if dim == 0 || dim * labels.len() != values.len() {
            let reason = format!(
                "{} numbers are not {} embeddings",
                values.len(),
                labels.len()
            );
            return Err(Error::argument("batch", reason));
        }
        if labels.len() > self.size {
            let reason = format!(
                "{} is less than the {} items of a batch; give the batch size or more",
                self.size,
                labels.len()
            );
            return Err(Error::argument("memory", reason));
        }
        if !self.is_empty() && dim != self.dim {
            let reason = format!(
                "embeddings of width {dim} do not go with those of width {} in the memory",
                self.dim
            );
            return Err(Error::argument("batch", reason));
        }
        self.dim = dim;
        let mut put = |row: &[f32], label: usize| {
            let slot = self.next;
            if slot == self.labels.len() {
                self.values.extend_from_slice(row);
                self.labels.push(label);
            } else {
                self.values[slot * dim..(slot + 1) * dim].copy_from_slice(row);
                self.labels[slot] = label;
            }
            self.next = (slot + 1) % self.size;
            slot
        };
        let rows = values.chunks_exact(dim).zip(labels);
        Ok(rows.map(|(row, &label)| put(row, label)).collect())
    }

    /// Writes it as safetensors under the names that the reference library has.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Argument`] where a label has no exact value in single precision.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        if let Some(label) = self.labels.iter().find(|label| **label > MAX_CLASSES) {
            let reason = format!("class {label} is one of more than {MAX_CLASSES}");
            return Err(Error::argument("memory", reason));
        }
        let labels = self.labels.iter().map(|&label| label as f32).collect();
        let tensors = [
            (
                EMBEDDINGS.to_string(),
                vec![self.len(), self.dim],
                self.values.clone(),
            ),
            (LABELS.to_string(), vec![self.len()], labels),
            (NEXT.to_string(), vec![1], vec![self.next as f32]),
        ];
        weights::save(path, &tensors)
    }

    /// Reads what [`Memory::save`] wrote, for a memory of the size of `self`, embeddings of width
    /// `dim` and this many classes.
    ///
    /// # Errors
    /// Those of opening the file; [`Error::MissingTensors`], [`Error::ShapeMismatch`] or
    /// [`Error::InvalidFile`] where it is of another loss or data set.
    pub(crate) fn load(&self, path: &Path, dim: usize, classes: usize) -> Result<Self> {
        let file = Checkpoint::open(path)?;
        let [values, labels, next] = [EMBEDDINGS, LABELS, NEXT].map(|name| file.read_f32(name));
        let (values, labels, next) = (values?, labels?, next?);
        let shape = |name| file.get(name).map(|entry| entry.shape().to_vec());
        let len = labels.len();
        for (name, expected) in [
            (EMBEDDINGS, vec![len, dim]),
            (LABELS, vec![len.min(self.size)]),
            (NEXT, vec![1]),
        ] {
            let found = shape(name).unwrap_or_default();
            if found != expected {
                return Err(Error::ShapeMismatch {
                    path: path.to_path_buf(),
                    tensor: name.into(),
                    expected,
                    found,
                });
            }
        }
        let whole = |value: f32, below: usize| {
            let number = value as usize;
            (number as f32 == value && number < below).then_some(number)
        };
        let labels: Option<Vec<usize>> = labels.iter().map(|&x| whole(x, classes)).collect();
        let Some(labels) = labels else {
            let reason = format!("`{LABELS}` has what is not one of {classes} classes");
            return Err(Error::invalid(path, reason));
        };
        // The next slot is the first free one, or any where all are taken.
        let next = whole(next[0], self.size).filter(|&next| len == self.size || next == len);
        let Some(next) = next else {
            let reason = format!("`{NEXT}` is not the next of {} slots", self.size);
            return Err(Error::invalid(path, reason));
        };
        Ok(Self {
            size: self.size,
            dim,
            values,
            labels,
            next,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay_and_slots_go_round() {
        let mut memory = Memory::new(5).unwrap();
        assert!(memory.is_empty() && Memory::new(0).is_err());
        let slots = memory.push(&[1.0, 1.5, 2.0, 2.5, 3.0, 3.5], &[0, 1, 2]);
        assert_eq!(slots.unwrap(), [0, 1, 2]);
        assert_eq!((memory.len(), memory.dim()), (3, 2));
        let slots = memory.push(&[4.0, 4.5, 5.0, 5.5, 6.0, 6.5], &[3, 4, 5]);
        assert_eq!(slots.unwrap(), [3, 4, 0]);
        assert_eq!(memory.labels(), [5, 1, 2, 3, 4]);
        assert_eq!(memory.values()[..4], [6.0, 6.5, 2.0, 2.5]);
        // A batch of the memory's own size takes all of its slots, from the next one on.
        let slots = memory.push(&[0.0; 10], &[9; 5]).unwrap();
        assert_eq!(slots, [1, 2, 3, 4, 0]);
        let error = memory.push(&[0.0; 12], &[9; 6]).unwrap_err().to_string();
        assert!(error.contains("5 is less than the 6 items"), "{error}");
        let error = memory.push(&[0.0; 3], &[9]).unwrap_err().to_string();
        assert!(
            error.contains("width 3") && error.contains("width 2"),
            "{error}"
        );
        assert!(memory.push(&[], &[]).is_err());
        assert!(memory.push(&[0.0; 3], &[1, 2]).is_err());
    }

    #[test]
    fn what_is_written_is_read_back_and_what_does_not_fit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory.safetensors");
        let empty = Memory::new(3).unwrap();
        let mut memory = empty.clone();
        for labels in [[0, 1], [2, 0]] {
            memory.push(&[0.1, 0.2, -0.3, 1e-30], &labels).unwrap();
            memory.save(&path).unwrap();
            assert_eq!(empty.load(&path, 2, 3).unwrap(), memory);
        }
        for (size, dim, classes, what) in [
            (3, 4, 3, "embedding_memory"),
            (2, 2, 3, "label_memory"),
            (3, 2, 2, "classes"),
            (4, 2, 3, "queue_idx"),
        ] {
            let memory = Memory::new(size).unwrap();
            let error = memory.load(&path, dim, classes).unwrap_err().to_string();
            assert!(
                error.contains(what) && error.contains("memory.safe"),
                "{error}"
            );
        }
    }
}
