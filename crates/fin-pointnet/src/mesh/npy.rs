//! Point clouds as NumPy arrays: `[n, 3]`, or `[n, 6]` with a normal a point, of `float32` or
//! `float64` in C order.

use std::path::Path;

use fin_core::Result;
use fin_core::npy::NpyHeader;

use super::Mesh;
use super::build::{Builder, Parsed, build, fault};

pub(super) fn read(bytes: &[u8], path: &Path) -> Result<Mesh> {
    let array = Array::open(bytes).map_err(|problem| problem.at(path))?;
    build(path, bytes.len(), |builder| {
        array.points(builder);
        Ok(())
    })
}

struct Array<'a> {
    values: &'a [u8],
    columns: usize,
    width: usize,
    big: bool,
}

impl<'a> Array<'a> {
    fn open(bytes: &'a [u8]) -> Parsed<Self> {
        let header = NpyHeader::read(&mut &bytes[..])
            .or_else(|error| fault(error.to_string()))?
            .or_else(fault)?;
        let (width, big) = match header.descr.as_str() {
            "<f4" => (4, false),
            "<f8" => (8, false),
            ">f4" => (4, true),
            ">f8" => (8, true),
            other => {
                return fault(format!(
                    "holds elements of type `{other}`; save the array as float32 or float64"
                ));
            }
        };
        if header.fortran_order {
            return fault("is in Fortran order; save it in C order");
        }
        let [rows, columns @ (3 | 6)] = header.shape[..] else {
            return fault(format!(
                "is of shape {:?}; a point cloud is of [n, 3], or [n, 6] with normals",
                header.shape
            ));
        };
        let values = &bytes[header.length..];
        if rows.checked_mul(columns * width) != Some(values.len()) {
            return fault(format!(
                "the header says {rows} rows of {columns} elements of {width} bytes, which is not what \
                 {} bytes of data hold",
                values.len()
            ));
        }
        Ok(Self {
            values,
            columns,
            width,
            big,
        })
    }

    fn points(&self, builder: &mut Builder) {
        for row in self.values.chunks_exact(self.columns * self.width) {
            let three = |start: usize| [0, 1, 2].map(|i| self.value(row, start + i));
            match self.width {
                4 => builder.vertex_f32(three(0).map(|x| x as f32)),
                _ => builder.vertex(three(0)),
            }
            if self.columns == 6 {
                builder.normal(three(3).map(|x| x as f32));
            }
        }
    }

    fn value(&self, row: &[u8], i: usize) -> f64 {
        let mut bytes = [0; 8];
        let value = &mut bytes[..self.width];
        value.copy_from_slice(&row[i * self.width..][..self.width]);
        if self.big {
            value.reverse();
        }
        match bytes.first_chunk() {
            Some(four) if self.width == 4 => f32::from_le_bytes(*four).into(),
            _ => f64::from_le_bytes(bytes),
        }
    }
}
