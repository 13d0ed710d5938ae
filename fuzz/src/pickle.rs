//! PyTorch files to read: pickles written opcode by opcode, in both containers.

use arbitrary::Arbitrary;

/// A step of a pickle, with operands that its opcode can take.
#[derive(Debug, Arbitrary)]
pub enum Op {
    None,
    True,
    Int(i32),
    Small(u8),
    Long(Vec<u8>),
    Text(Short),
    Bytes(Vec<u8>),
    Float(f64),
    Mark,
    Tuple,
    Tuple1,
    Tuple2,
    Tuple3,
    List,
    Dict,
    EmptyTuple,
    EmptyList,
    EmptyDict,
    Append,
    Appends,
    SetItem,
    SetItems,
    Pop,
    PopMark,
    Dup,
    Get(u8),
    Put(u8),
    Memoize,
    Global(Global),
    StackGlobal,
    Reduce,
    Build,
    NewObj,
    PersistentId,
    Storage { dtype: DType, key: u8, numel: u32 },
    Line(u8, Short),
    Raw(u8),
    Stop,
}

/// A text that state dictionaries hold, or any other.
#[derive(Debug, Arbitrary)]
pub enum Short {
    Storage,
    StateDict,
    Parameters,
    Buffers,
    Modules,
    Zero,
    One,
    Name(u8),
    Other(String),
}

impl Short {
    fn text(&self) -> String {
        match self {
            Self::Storage => "storage".into(),
            Self::StateDict => "state_dict".into(),
            Self::Parameters => "_parameters".into(),
            Self::Buffers => "_buffers".into(),
            Self::Modules => "_modules".into(),
            Self::Zero => "0".into(),
            Self::One => "1".into(),
            Self::Name(n) => format!("w{n}"),
            Self::Other(text) => text.clone(),
        }
    }
}

/// What pickles of weights refer to, and what they must not.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub enum Global {
    RebuildV2,
    RebuildV3,
    Rebuild,
    Parameter,
    FromType,
    OrderedDict,
    Set,
    Storage(DType),
    Size,
    Device,
    System,
    Module,
}

impl Global {
    fn name(self) -> (&'static str, String) {
        let (module, name) = match self {
            Self::RebuildV2 => ("torch._utils", "_rebuild_tensor_v2"),
            Self::RebuildV3 => ("torch._utils", "_rebuild_tensor_v3"),
            Self::Rebuild => ("torch._utils", "_rebuild_tensor"),
            Self::Parameter => ("torch._utils", "_rebuild_parameter"),
            Self::FromType => ("torch._tensor", "_rebuild_from_type_v2"),
            Self::OrderedDict => ("collections", "OrderedDict"),
            Self::Set => ("builtins", "set"),
            Self::Storage(dtype) => ("torch", dtype.storage()),
            Self::Size => ("torch", "Size"),
            Self::Device => ("torch", "device"),
            Self::System => ("posix", "system"),
            Self::Module => ("__main__", "Net"),
        };
        (module, name.into())
    }
}

/// Element types of storages.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub enum DType {
    Float,
    Half,
    BFloat16,
    Double,
    Long,
    Byte,
    Bool,
    Untyped,
    Unknown,
}

impl DType {
    fn storage(self) -> &'static str {
        match self {
            Self::Float => "FloatStorage",
            Self::Half => "HalfStorage",
            Self::BFloat16 => "BFloat16Storage",
            Self::Double => "DoubleStorage",
            Self::Long => "LongStorage",
            Self::Byte => "ByteStorage",
            Self::Bool => "BoolStorage",
            Self::Untyped => "UntypedStorage",
            Self::Unknown => "ComplexFloatStorage",
        }
    }

    fn size(self) -> usize {
        match self {
            Self::Double | Self::Long | Self::Unknown => 8,
            Self::Float => 4,
            Self::Half | Self::BFloat16 => 2,
            Self::Byte | Self::Bool | Self::Untyped => 1,
        }
    }
}

/// A pickle in the making.
#[derive(Default)]
pub struct Pickle(Vec<u8>);

impl Pickle {
    pub fn new() -> Self {
        Self(vec![0x80, 2])
    }

    pub fn op(&mut self, op: &Op) {
        let out = &mut self.0;
        match op {
            Op::None => out.push(b'N'),
            Op::True => out.push(0x88),
            Op::Int(n) => {
                out.push(b'J');
                out.extend(n.to_le_bytes());
            }
            Op::Small(n) => out.extend([b'K', *n]),
            Op::Long(bytes) => {
                let bytes = &bytes[..bytes.len().min(255)];
                out.extend([0x8a, bytes.len() as u8]);
                out.extend(bytes);
            }
            Op::Text(text) => self.text(&text.text()),
            Op::Bytes(bytes) => {
                out.push(b'B');
                out.extend((bytes.len() as u32).to_le_bytes());
                out.extend(bytes);
            }
            Op::Float(x) => {
                out.push(b'G');
                out.extend(x.to_be_bytes());
            }
            Op::Mark => out.push(b'('),
            Op::Tuple => out.push(b't'),
            Op::Tuple1 => out.push(0x85),
            Op::Tuple2 => out.push(0x86),
            Op::Tuple3 => out.push(0x87),
            Op::List => out.push(b'l'),
            Op::Dict => out.push(b'd'),
            Op::EmptyTuple => out.push(b')'),
            Op::EmptyList => out.push(b']'),
            Op::EmptyDict => out.push(b'}'),
            Op::Append => out.push(b'a'),
            Op::Appends => out.push(b'e'),
            Op::SetItem => out.push(b's'),
            Op::SetItems => out.push(b'u'),
            Op::Pop => out.push(b'0'),
            Op::PopMark => out.push(b'1'),
            Op::Dup => out.push(b'2'),
            Op::Get(n) => out.extend([b'h', *n]),
            Op::Put(n) => out.extend([b'q', *n]),
            Op::Memoize => out.push(0x94),
            Op::Global(global) => self.global(*global),
            Op::StackGlobal => out.push(0x93),
            Op::Reduce => out.push(b'R'),
            Op::Build => out.push(b'b'),
            Op::NewObj => out.push(0x81),
            Op::PersistentId => out.push(b'Q'),
            Op::Storage { dtype, key, numel } => {
                self.storage(*dtype, &key.to_string(), i64::from(*numel));
            }
            Op::Line(op, text) => {
                out.push(b"ILFVgpPc"[*op as usize % 8]);
                out.extend(text.text().bytes());
                out.push(b'\n');
            }
            Op::Raw(byte) => out.push(*byte),
            Op::Stop => out.push(b'.'),
        }
    }

    fn text(&mut self, text: &str) {
        self.0.push(b'X');
        self.0.extend((text.len() as u32).to_le_bytes());
        self.0.extend(text.bytes());
    }

    fn global(&mut self, global: Global) {
        let (module, name) = global.name();
        self.0.extend(format!("c{module}\n{name}\n").bytes());
    }

    fn int(&mut self, n: i64) {
        self.0.extend([0x8a, 8]);
        self.0.extend(n.to_le_bytes());
    }

    fn ints(&mut self, ns: impl IntoIterator<Item = i64>) {
        self.0.push(b'(');
        for n in ns {
            self.int(n);
        }
        self.0.push(b't');
    }

    fn storage(&mut self, dtype: DType, key: &str, numel: i64) {
        self.0.push(b'(');
        self.text("storage");
        self.global(Global::Storage(dtype));
        self.text(key);
        self.text("cpu");
        self.int(numel);
        self.0.extend(b"tQ");
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.0.push(b'.');
        self.0
    }
}

/// A state dictionary, with a few of its numbers bent.
#[derive(Debug, Arbitrary)]
pub struct StateDict {
    tensors: Vec<Tensor>,
    nested: Option<Short>,
    before: Vec<Op>,
}

#[derive(Debug, Arbitrary)]
struct Tensor {
    name: Short,
    dtype: DType,
    /// The storage of an earlier tensor, or one of its own.
    shared: Option<u8>,
    shape: Vec<u8>,
    strides: Option<Vec<u8>>,
    offset: u8,
    bent: Bent,
}

#[derive(Debug, Arbitrary)]
enum Bent {
    No,
    NoEither,
    NorThis,
    Numel(i64),
    Dimension(i64),
    Stride(i64),
    Offset(i64),
    Dtype(DType),
    Parameter,
    V3(Short),
    Memoized(u8),
}

/// A storage of a file: its key and its bytes.
pub type Storage = (String, usize, Vec<u8>);

impl StateDict {
    /// The pickle, and the storages that belong beside it.
    pub fn pickle(&self) -> (Vec<u8>, Vec<Storage>) {
        let mut pickle = Pickle::new();
        let mut storages: Vec<Storage> = Vec::new();
        if let Some(key) = &self.nested {
            pickle.0.extend(b"}(");
            pickle.text(&key.text());
        }
        pickle.0.extend(b"}(");
        for op in &self.before {
            pickle.op(op);
        }
        for tensor in &self.tensors {
            let count: usize = tensor
                .shape
                .iter()
                .fold(1, |count, n| (count * usize::from(*n)).min(1 << 12));
            let numel = count + usize::from(tensor.offset);
            let key = match tensor.shared {
                Some(n) => usize::from(n) % (storages.len() + 1),
                None => storages.len(),
            };
            if key == storages.len() {
                let bytes = (0..numel * tensor.dtype.size()).map(|i| (i * 37) as u8);
                storages.push((key.to_string(), numel, bytes.collect()));
            }
            let numel = match tensor.bent {
                Bent::Numel(n) => n,
                _ => storages[key].1 as i64,
            };
            let mut shape: Vec<i64> = tensor.shape.iter().map(|n| i64::from(*n)).collect();
            if let Bent::Dimension(n) = tensor.bent {
                shape.push(n);
            }
            let mut strides = vec![1i64; shape.len()];
            for i in (1..shape.len()).rev() {
                strides[i - 1] = strides[i].wrapping_mul(shape[i]);
            }
            // Small ones in place of the row-major ones, zero among them, repeat elements.
            for (stride, given) in strides.iter_mut().zip(tensor.strides.iter().flatten()) {
                *stride = i64::from(*given % 4);
            }
            if let (Bent::Stride(n), Some(stride)) = (&tensor.bent, strides.first_mut()) {
                *stride = *n;
            }
            let offset = match tensor.bent {
                Bent::Offset(n) => n,
                _ => i64::from(tensor.offset),
            };
            pickle.text(&tensor.name.text());
            if let Bent::Memoized(n) = tensor.bent {
                pickle.0.extend([b'h', n]);
                continue;
            }
            if let Bent::Parameter = tensor.bent {
                pickle.global(Global::Parameter);
                pickle.0.push(b'(');
            }
            let v3 = matches!(tensor.bent, Bent::V3(_));
            pickle.global(if v3 {
                Global::RebuildV3
            } else {
                Global::RebuildV2
            });
            pickle.0.push(b'(');
            let dtype = match tensor.bent {
                Bent::Dtype(dtype) => dtype,
                _ => tensor.dtype,
            };
            pickle.storage(dtype, &key.to_string(), numel);
            pickle.int(offset);
            pickle.ints(shape);
            pickle.ints(strides);
            pickle.0.push(0x89);
            pickle.global(Global::OrderedDict);
            pickle.0.extend(b")R");
            if let Bent::V3(name) = &tensor.bent {
                pickle
                    .0
                    .extend(format!("ctorch\n{}\n", name.text().replace('\n', "")).bytes());
            }
            pickle.0.extend(b"tR");
            if let Bent::Parameter = tensor.bent {
                pickle.0.push(0x88);
                pickle.global(Global::OrderedDict);
                pickle.0.extend(b")RtR");
            }
            pickle.0.extend([b'q', key as u8]);
        }
        pickle.0.push(b'u');
        if self.nested.is_some() {
            pickle.0.push(b'u');
        }
        (pickle.finish(), storages)
    }
}

/// A zip archive as `torch.save` writes it: every entry stored, no checksums.
pub fn zip(pickle: &[u8], storages: &[Storage]) -> Vec<u8> {
    let mut entries = vec![("archive/data.pkl".to_string(), pickle)];
    entries.push(("archive/byteorder".into(), b"little"));
    for (key, _, bytes) in storages {
        entries.push((format!("archive/data/{key}"), bytes));
    }
    entries.push(("archive/version".into(), b"3\n"));
    let mut file = Vec::new();
    let mut directory = Vec::new();
    for (name, bytes) in &entries {
        let offset = (file.len() as u32).to_le_bytes();
        let size = (bytes.len() as u32).to_le_bytes();
        // Version, flags, method, time, date, checksum, sizes, lengths of name and extra field.
        let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        common.extend(size);
        common.extend(size);
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        file.extend(b"PK\x03\x04");
        file.extend(&common);
        file.extend(name.bytes());
        file.extend(*bytes);
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(&common);
        // Comment length, disk, attributes, offset.
        directory.extend([0; 10]);
        directory.extend(offset);
        directory.extend(name.bytes());
    }
    let start = (file.len() as u32).to_le_bytes();
    let count = (entries.len() as u16).to_le_bytes();
    file.extend(&directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend(count);
    file.extend(count);
    file.extend((directory.len() as u32).to_le_bytes());
    file.extend(start);
    file.extend([0, 0]);
    file
}

/// The container of PyTorch 1.5 and before: five pickles, then the storages.
pub fn legacy(pickle: &[u8], storages: &[Storage]) -> Vec<u8> {
    let mut file = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.".to_vec();
    file.extend(b"\x80\x02}(U\x10protocol_versionM\xe9\x03U\rlittle_endian\x88u.");
    file.extend(pickle);
    let mut keys = Pickle::new();
    keys.0.extend(b"](");
    for (key, _, _) in storages {
        keys.text(key);
    }
    keys.0.push(b'e');
    file.extend(keys.finish());
    for (_, numel, bytes) in storages {
        file.extend((*numel as i64).to_le_bytes());
        file.extend(bytes);
    }
    file
}
