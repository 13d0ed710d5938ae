//! Embeddings as a NumPy array (`numpy.lib.format`, version 1.0).

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::atomic::AtomicFile;
use crate::error::{Error, Result};
use crate::npy::{MAGIC, NpyHeader};

/// What the offset of the data is a multiple of.
const ALIGNMENT: usize = 64;
/// Magic, version and, in version 1.0, the length of the header.
const PREFIX: usize = 10;

#[derive(Debug)]
pub(super) struct Writer {
    file: AtomicFile,
    dim: usize,
}

impl Writer {
    pub(super) fn create(path: &Path, dim: usize) -> Result<Self> {
        let mut file = AtomicFile::create(path)?;
        file.write_all(&header(0, dim))
            .map_err(Error::io(path, "write"))?;
        Ok(Self { file, dim })
    }

    pub(super) fn write(&mut self, rows: &[f32]) -> Result<()> {
        write_le(&mut self.file, rows).map_err(Error::io(self.file.destination(), "write"))
    }

    /// Puts the number of rows into the header.
    pub(super) fn finish(mut self, rows: usize) -> Result<()> {
        let header = header(rows, self.dim);
        let patch = |file: &mut File| {
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&header)
        };
        let result = patch(self.file.file_mut()?);
        result.map_err(Error::io(self.file.destination(), "write"))?;
        self.file.commit()
    }
}

/// Writes values in little-endian byte order.
fn write_le(file: &mut impl Write, values: &[f32]) -> std::io::Result<()> {
    if cfg!(target_endian = "little") {
        return file.write_all(bytemuck::cast_slice(values));
    }
    values
        .iter()
        .try_for_each(|value| file.write_all(&value.to_le_bytes()))
}

/// Everything before the data. Its length does not depend on the number of rows.
fn header(rows: usize, dim: usize) -> Vec<u8> {
    let dictionary = |rows: usize| {
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dim}), }}")
    };
    let length = (PREFIX + dictionary(usize::MAX).len() + 1).next_multiple_of(ALIGNMENT);
    let header_length =
        u16::try_from(length - PREFIX).expect("a matrix's header is some 100 bytes long");
    let mut header = MAGIC.to_vec();
    header.extend([1, 0]);
    header.extend(header_length.to_le_bytes());
    header.extend(dictionary(rows).bytes());
    header.resize(length - 1, b' ');
    header.push(b'\n');
    header
}

/// Reads a matrix of little-endian `float32` in C order from a `.npy` file: its values,
/// row-major, and its shape `[rows, columns]`.
///
/// Nothing is allocated for the values before the file is known to hold as many as its header
/// says.
///
/// # Errors
/// [`Error::Io`] where the file cannot be read; [`Error::InvalidFile`] where it is not in this
/// format, holds another element type, order or number of dimensions, or is shorter or longer
/// than its header says.
pub fn read_npy_f32(path: impl AsRef<Path>) -> Result<(Vec<f32>, [usize; 2])> {
    let path = path.as_ref();
    let io = || Error::io(path, "read");
    let invalid = |reason: String| Error::invalid(path, reason);
    let mut file = File::open(path).map_err(io())?;
    let file_length = file.metadata().map_err(io())?.len();

    let header = NpyHeader::read(&mut file).map_err(io())?.map_err(invalid)?;
    let shape = matrix_shape(&header).map_err(invalid)?;

    let [rows, columns] = shape;
    let offset = header.length as u64;
    let expected = u64::try_from(rows)
        .ok()
        .zip(u64::try_from(columns).ok())
        .and_then(|(rows, columns)| {
            rows.checked_mul(columns)?
                .checked_mul(4)?
                .checked_add(offset)
        });
    if expected != Some(file_length) {
        let reason = format!(
            "the header says {rows} rows of {columns} float32, which is not what {} bytes of data \
             hold",
            file_length.saturating_sub(offset)
        );
        return Err(invalid(reason));
    }
    let mut values = vec![0_f32; rows * columns];
    file.read_exact(bytemuck::cast_slice_mut(&mut values))
        .map_err(io())?;
    if cfg!(target_endian = "big") {
        for value in &mut values {
            *value = f32::from_bits(value.to_bits().swap_bytes());
        }
    }
    Ok((values, shape))
}

/// Shape that a header gives, or why it is not one of a `float32` matrix.
fn matrix_shape(header: &NpyHeader) -> Result<[usize; 2], String> {
    if header.descr != "<f4" {
        let reason = format!(
            "holds elements of type `{}`; save the array as little-endian float32 (`<f4`)",
            header.descr
        );
        return Err(reason);
    }
    if header.fortran_order {
        return Err("is in Fortran order; save it in C order".to_owned());
    }
    header.shape.as_slice().try_into().map_err(|_| {
        format!(
            "has {} dimensions; a matrix of rows by columns is needed",
            header.shape.len()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::EmbeddingWriter;
    use super::*;

    fn npy(dictionary: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0]);
        bytes.extend(u16::try_from(dictionary.len()).unwrap().to_le_bytes());
        bytes.extend(dictionary.bytes());
        bytes.extend(data);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<(Vec<f32>, [usize; 2])> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npy");
        std::fs::write(&path, bytes).unwrap();
        read_npy_f32(path)
    }

    /// The bytes of NumPy 2:
    /// `numpy.save("a.npy", numpy.array([[1, 2], [-0.5, 0], [3, 1e-3]], dtype="<f4"))`.
    #[test]
    fn writes_what_numpy_writes() {
        let mut expected = b"\x93NUMPY\x01\x00\x76\x00\
            {'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }"
            .to_vec();
        expected.resize(127, b' ');
        expected.push(b'\n');
        expected.extend(b"\x00\x00\x80\x3f\x00\x00\x00\x40\x00\x00\x00\xbf");
        expected.extend(b"\x00\x00\x00\x00\x00\x00\x40\x40\x6f\x12\x83\x3a");

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npy");
        let mut writer = EmbeddingWriter::create(&path, 2, "text").unwrap();
        writer.write_batch(&["a"], &[1.0, 2.0]).unwrap();
        writer
            .write_batch(&["b", "c"], &[-0.5, 0.0, 3.0, 1e-3])
            .unwrap();
        writer.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), expected);
        let (values, shape) = read_npy_f32(&path).unwrap();
        assert_eq!(
            (values.as_slice(), shape),
            (&[1.0, 2.0, -0.5, 0.0, 3.0, 1e-3][..], [3, 2])
        );
    }

    #[test]
    fn the_header_has_one_length_for_any_number_of_rows() {
        for dim in [1, 768, i32::MAX as usize] {
            let length = header(0, dim).len();
            assert_eq!(length % ALIGNMENT, 0);
            assert_eq!(length, header(usize::MAX, dim).len());
        }
    }

    #[test]
    fn no_rows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npy");
        EmbeddingWriter::create(&path, 384, "text")
            .unwrap()
            .finish()
            .unwrap();
        assert_eq!(read_npy_f32(&path).unwrap(), (Vec::new(), [0, 384]));
    }

    #[test]
    fn headers_of_other_writers() {
        let data = 1_f32.to_le_bytes();
        for dictionary in [
            "{\"shape\":(1,1),\"fortran_order\":False,\"descr\":\"<f4\"}",
            "{ 'fortran_order' : False , 'descr' : '<f4' , 'shape' : (1, 1,) , } \n",
        ] {
            assert_eq!(read(&npy(dictionary, &data)).unwrap(), (vec![1.0], [1, 1]));
        }
        let mut bytes = b"\x93NUMPY\x02\x00\x3b\x00\x00\x00".to_vec();
        bytes.extend(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1), }");
        bytes.extend(data);
        assert_eq!(read(&bytes).unwrap(), (vec![1.0], [1, 1]));
    }

    #[test]
    fn headers_that_lie_about_the_size() {
        for shape in [
            "(2, 2)",
            "(1, 1)",
            "(0, 2)",
            "(4611686018427387904, 2)",
            "(18446744073709551615, 18446744073709551615)",
            "(1099511627776, 1)",
        ] {
            let dictionary =
                format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
            let error = read(&npy(&dictionary, &[0; 8])).unwrap_err();
            assert!(matches!(error, Error::InvalidFile { .. }), "{error}");
            assert!(
                error.to_string().contains("not what 8 bytes of data hold"),
                "{error}"
            );
        }
    }

    #[test]
    fn headers_that_cannot_be_used() {
        for (descr, order, shape, expected) in [
            ("'<f8'", "False", "(1, 1)", "elements of type `<f8`"),
            ("'>f4'", "False", "(1, 1)", "elements of type `>f4`"),
            ("'<f4'", "True", "(1, 1)", "Fortran order"),
            ("'<f4'", "False", "(1,)", "has 1 dimensions"),
            ("'<f4'", "False", "()", "has 0 dimensions"),
            ("'<f4'", "False", "(1, 1, 1)", "has 3 dimensions"),
            ("'<f4'", "False", "(-1, 1)", "not in NumPy's form"),
            (
                "'<f4'",
                "False",
                "(99999999999999999999, 1)",
                "not in NumPy's form",
            ),
            ("'<f4'", "None", "(1, 1)", "not in NumPy's form"),
            ("[('a', '<f4')]", "False", "(1, 1)", "not in NumPy's form"),
            (
                "'<f4'",
                "False",
                "(1, 1), 'shape': (1, 1)",
                "not in NumPy's form",
            ),
            (
                "'<f4'",
                "False",
                "(1, 1), 'other': 1",
                "not in NumPy's form",
            ),
            ("'<f4'", "False", "(1, 1) }, {", "not in NumPy's form"),
            ("'<f4'", "False", "(1", "not in NumPy's form"),
            ("'<f4", "False", "(1, 1)", "not in NumPy's form"),
        ] {
            let dictionary =
                format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n");
            let error = read(&npy(&dictionary, &[0; 4])).unwrap_err();
            assert!(matches!(error, Error::InvalidFile { .. }), "{error}");
            assert!(
                error.to_string().contains(expected),
                "{dictionary}: {error}"
            );
        }
        for dictionary in [
            "",
            "{",
            "{}",
            "{'shape': (1, 1)}",
            "{'descr' '<f4'}",
            "{é",
            "{'shape': (1, 1) 'descr': '<f4'}",
        ] {
            let error = read(&npy(dictionary, &[])).unwrap_err().to_string();
            assert!(error.contains("not in NumPy's form"), "{error}");
        }
    }

    #[test]
    fn files_that_are_something_else() {
        for (bytes, expected) in [
            (&b""[..], "not a .npy file"),
            (b"PK\x03\x04 an archive", "not a .npy file"),
            (b"\x93NUMPY\x01", "not a .npy file"),
            (b"\x93NUMPY\x09\x00\x76\x00", "version 9.0"),
            (b"\x93NUMPY\x01\x00\x76", "ends within its header"),
            (
                b"\x93NUMPY\x01\x00\x76\x00{'descr'",
                "ends within its header",
            ),
            (
                b"\x93NUMPY\x02\x00\xff\xff\xff\xff{",
                "a header of 4294967295 bytes",
            ),
            (
                b"\x93NUMPY\x01\x00\x02\x00\xff\xff",
                "the header is not text",
            ),
        ] {
            let error = read(bytes).unwrap_err();
            assert!(matches!(error, Error::InvalidFile { .. }), "{error}");
            assert!(error.to_string().contains(expected), "{error}");
        }
        let error = read_npy_f32("/nonexistent-fin/a.npy").unwrap_err();
        assert!(matches!(error, Error::Io { action: "read", .. }), "{error}");
    }
}
