//! What reading a pickle takes, without reading it.
//!
//! A pickle is a program for a stack machine (Python's `pickletools`). Here it is run over sizes
//! in place of values: nothing is built, and what the real run would hold is known before it
//! starts. Values that the program copies count again with each copy, as the reader copies them,
//! and nothing that is dropped is given back, so that the estimate is never too low.

use std::collections::HashMap;

use crate::limits::{Budget, Exceeded};

/// Bytes for a value in a list or tuple, and for a copy of it.
const ITEM: u64 = 72;
/// For a value in a list that is growing.
const APPENDED: u64 = 3 * ITEM;
/// For moving a value from the stack into a list or tuple, while it is moved.
const MOVING: u64 = 96;
/// For a slot of the stack or memo, in a table that is growing.
const SLOT: u64 = 360;
/// For a key and value of a dictionary that is growing, beyond the values themselves.
const PAIR: u64 = 360;
/// For a tensor with its entry, beyond shape, strides and name.
const TENSOR: u64 = 1536;

/// Functions of `torch._utils` that make a tensor.
const REBUILD: [&[u8]; 3] = [
    b"_rebuild_tensor",
    b"_rebuild_tensor_v2",
    b"_rebuild_tensor_v3",
];

/// Longest name of a list's item: its index.
const INDEX: u64 = 20;

/// A value in the place of which only this is known.
#[derive(Debug, Clone, Copy, Default)]
struct Value {
    /// Of a copy of it with all that is in it.
    bytes: u64,
    /// Of its text, where it can be the name of something.
    text: u64,
    /// Tensors in it.
    tensors: u64,
    /// Whether it is a function that makes a tensor.
    makes_tensor: bool,
}

impl Value {
    fn leaf(text: u64) -> Self {
        Self {
            bytes: ITEM + text,
            text,
            ..Self::default()
        }
    }

    fn holding(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            tensors: self.tensors.saturating_add(other.tensors),
            ..Self::default()
        }
    }
}

/// Spends what reading the pickle at the start of `bytes` takes, and returns what is behind it.
///
/// `None` where the pickle ends early or holds what no reader accepts: the reader says so.
pub(super) fn measure<'a>(
    bytes: &'a [u8],
    budget: &mut Budget,
) -> Result<Option<&'a [u8]>, Exceeded> {
    let mut machine = Machine {
        rest: bytes,
        stack: Vec::new(),
        highest: 0,
        marks: Vec::new(),
        memo: HashMap::new(),
        budget,
    };
    loop {
        match machine.step() {
            Ok(true) => {}
            Ok(false) => return Ok(Some(machine.rest)),
            Err(Halt::Malformed) => return Ok(None),
            Err(Halt::Exceeded) => return Err(Exceeded),
        }
    }
}

enum Halt {
    Malformed,
    Exceeded,
}

impl From<Exceeded> for Halt {
    fn from(_: Exceeded) -> Self {
        Self::Exceeded
    }
}

struct Machine<'a, 'b> {
    rest: &'a [u8],
    stack: Vec<Value>,
    /// Most slots of the stack that were ever in use.
    highest: usize,
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    budget: &'b mut Budget,
}

impl<'a> Machine<'a, '_> {
    /// One opcode; false at the end.
    fn step(&mut self) -> Result<bool, Halt> {
        let [opcode] = self.array()?;
        match opcode {
            // PROTO, FRAME
            0x80 => {
                self.take(1)?;
            }
            0x95 => {
                self.take(8)?;
            }
            b'.' => return Ok(false),
            // NONE, NEWTRUE, NEWFALSE, EMPTY_TUPLE, EMPTY_LIST, EMPTY_SET, EMPTY_DICT
            b'N' | 0x88 | 0x89 | b')' | b']' | 0x8f | b'}' => self.push(Value::leaf(0))?,
            // BININT1, BININT2, BININT, BINFLOAT
            b'K' => self.fixed(1)?,
            b'M' => self.fixed(2)?,
            b'J' => self.fixed(4)?,
            b'G' => self.fixed(8)?,
            // INT, LONG, FLOAT, UNICODE: a line of text, of which Latin-1 can double
            b'I' | b'L' | b'F' | b'V' => {
                let text = 2 * self.line()?;
                self.leaf(text)?;
            }
            // LONG1, SHORT_BINUNICODE, SHORT_BINSTRING, SHORT_BINBYTES
            0x8a | 0x8c | b'U' | b'C' => {
                let [len] = self.array()?;
                self.sized(u64::from(len))?;
            }
            // LONG4, BINUNICODE, BINSTRING, BINBYTES
            0x8b | b'X' | b'T' | b'B' => {
                let len = u32::from_le_bytes(self.array()?);
                self.sized(u64::from(len))?;
            }
            // BINUNICODE8, BINBYTES8, BYTEARRAY8
            0x8d | 0x8e | 0x96 => {
                let len = u64::from_le_bytes(self.array()?);
                self.sized(len)?;
            }
            b'(' => {
                self.budget.spend(24)?;
                self.marks.push(self.stack.len());
            }
            // TUPLE, LIST, FROZENSET; TUPLE1 to TUPLE3
            b't' | b'l' | 0x91 => {
                let items = self.pop_to_mark()?;
                self.sequence(Value::leaf(0), items, ITEM)?;
            }
            0x85..=0x87 => {
                let items = self.pop_many(usize::from(opcode - 0x84))?;
                self.sequence(Value::leaf(0), items, ITEM)?;
            }
            // DICT
            b'd' => {
                let items = self.pop_to_mark()?;
                self.dictionary(Value::leaf(0), items)?;
            }
            // APPEND, APPENDS, ADDITEMS
            b'a' => {
                let items = self.pop_many(1)?;
                let list = self.pop()?;
                self.sequence(list, items, APPENDED)?;
            }
            b'e' | 0x90 => {
                let items = self.pop_to_mark()?;
                let list = self.pop()?;
                self.sequence(list, items, APPENDED)?;
            }
            // SETITEM, SETITEMS
            b's' => {
                let items = self.pop_many(2)?;
                let dictionary = self.pop()?;
                self.dictionary(dictionary, items)?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                let dictionary = self.pop()?;
                self.dictionary(dictionary, items)?;
            }
            // POP, which takes a mark where one is on top; POP_MARK, DUP
            b'0' => {
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            b'1' => {
                self.pop_to_mark()?;
            }
            b'2' => {
                let value = self.top()?;
                self.copy(value)?;
            }
            // GET, BINGET, LONG_BINGET
            b'g' => {
                let index = self.index()?;
                self.get(index)?;
            }
            b'h' => {
                let [index] = self.array()?;
                self.get(u32::from(index))?;
            }
            b'j' => {
                let index = u32::from_le_bytes(self.array()?);
                self.get(index)?;
            }
            // PUT, BINPUT, LONG_BINPUT, MEMOIZE
            b'p' => {
                let index = self.index()?;
                self.put(index)?;
            }
            b'q' => {
                let [index] = self.array()?;
                self.put(u32::from(index))?;
            }
            b'r' => {
                let index = u32::from_le_bytes(self.array()?);
                self.put(index)?;
            }
            0x94 => self.put(self.memo.len() as u32)?,
            // GLOBAL, STACK_GLOBAL
            b'c' => {
                let (module, name) = (self.text_line()?, self.text_line()?);
                let text = (module.len() + name.len()) as u64;
                self.budget.spend(3 * text)?;
                self.push(Value {
                    makes_tensor: module == b"torch._utils" && REBUILD.contains(&name),
                    ..Value::leaf(text)
                })?;
            }
            0x93 => {
                let [module, name] = [self.pop()?, self.pop()?];
                self.leaf(module.text.saturating_add(name.text))?;
            }
            // PERSID, BINPERSID: a storage, of which a tensor may come
            b'P' => {
                let text = self.line()?;
                self.storage(Value::leaf(text))?;
            }
            b'Q' => {
                let id = self.pop()?;
                self.storage(id)?;
            }
            // REDUCE, NEWOBJ, BUILD: a callable or object, and what it is given
            b'R' | 0x81 => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                let mut result = callable.holding(arguments);
                // Of its arguments, a tensor keeps shape and strides, in fewer bytes.
                if opcode == b'R' && callable.makes_tensor {
                    result.bytes = ITEM + result.bytes / 4;
                }
                self.call(result)?;
            }
            b'b' => {
                let (state, object) = (self.pop()?, self.pop()?);
                let built = object.holding(state);
                // The memo may hold the object too.
                self.budget.spend(built.bytes)?;
                self.call(built)?;
            }
            // NEWOBJ_EX
            0x92 => {
                let (keywords, arguments, class) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(class.holding(arguments).holding(keywords))?;
            }
            _ => return Err(Halt::Malformed),
        }
        Ok(true)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Halt> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Halt::Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Halt> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Halt::Malformed)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// The length of a line, its end not counted.
    fn line(&mut self) -> Result<u64, Halt> {
        self.text_line().map(|line| line.len() as u64)
    }

    fn text_line(&mut self) -> Result<&'a [u8], Halt> {
        let end = self.rest.iter().position(|byte| *byte == b'\n');
        let line = self.take(end.ok_or(Halt::Malformed)? + 1)?;
        Ok(&line[..line.len() - 1])
    }

    fn index(&mut self) -> Result<u32, Halt> {
        let line = self.text_line()?;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let index = std::str::from_utf8(line)
            .ok()
            .and_then(|line| line.parse().ok());
        index.ok_or(Halt::Malformed)
    }

    fn push(&mut self, value: Value) -> Result<(), Halt> {
        self.stack.push(value);
        if self.stack.len() > self.highest {
            self.highest = self.stack.len();
            self.budget.spend(SLOT)?;
        }
        Ok(())
    }

    fn fixed(&mut self, len: usize) -> Result<(), Halt> {
        self.take(len)?;
        // A number can be a key.
        self.push(Value {
            text: INDEX,
            ..Value::leaf(0)
        })
    }

    /// A value with a payload, which is read into a buffer that grows.
    fn leaf(&mut self, text: u64) -> Result<(), Halt> {
        self.budget.spend(text.saturating_mul(3))?;
        self.push(Value::leaf(text.max(INDEX)))
    }

    fn sized(&mut self, len: u64) -> Result<(), Halt> {
        let len = usize::try_from(len).map_err(|_| Halt::Malformed)?;
        self.take(len)?;
        self.leaf(len as u64)
    }

    /// The topmost value, where no mark is above it.
    fn top(&self) -> Result<Value, Halt> {
        if self.marks.last() == Some(&self.stack.len()) {
            return Err(Halt::Malformed);
        }
        self.stack.last().copied().ok_or(Halt::Malformed)
    }

    fn pop(&mut self) -> Result<Value, Halt> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_many(&mut self, n: usize) -> Result<Vec<Value>, Halt> {
        let mut items = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        Ok(items)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>, Halt> {
        let mark = self.marks.pop().ok_or(Halt::Malformed)?;
        if mark > self.stack.len() {
            return Err(Halt::Malformed);
        }
        Ok(self.stack.split_off(mark))
    }

    /// Items into a list or tuple. A pair of one may become an item of a dictionary later on.
    fn sequence(&mut self, mut list: Value, items: Vec<Value>, per_item: u64) -> Result<(), Halt> {
        let longest = items.iter().map(|item| item.text).max().unwrap_or(0);
        self.moving(items.len())?;
        for item in items {
            self.budget.spend(per_item)?;
            self.name(longest.max(INDEX), item)?;
            list = list.holding(item);
        }
        self.push(list)
    }

    /// Keys and values into a dictionary.
    fn dictionary(&mut self, mut dictionary: Value, items: Vec<Value>) -> Result<(), Halt> {
        self.moving(items.len())?;
        for pair in items.chunks(2) {
            let [key, value] = [pair[0], pair.get(1).copied().unwrap_or_default()];
            self.budget.spend(PAIR)?;
            self.name(key.text, value)?;
            dictionary = dictionary.holding(key).holding(value);
            dictionary.bytes = dictionary.bytes.saturating_add(PAIR);
        }
        self.push(dictionary)
    }

    /// Values on their way from the stack.
    fn moving(&mut self, items: usize) -> Result<(), Halt> {
        let bytes = (MOVING + ITEM) * items as u64;
        self.budget.spend(bytes)?;
        self.budget.give_back(bytes);
        Ok(())
    }

    /// Tensors are called by the way to them: each in a value gets this part of its name, twice.
    fn name(&mut self, part: u64, value: Value) -> Result<(), Halt> {
        let bytes = 2 * part.saturating_add(1);
        Ok(self.budget.spend(bytes.saturating_mul(value.tensors))?)
    }

    /// A value once more.
    fn copy(&mut self, value: Value) -> Result<(), Halt> {
        self.budget.spend(value.bytes)?;
        self.push(value)
    }

    fn get(&mut self, index: u32) -> Result<(), Halt> {
        let value = *self.memo.get(&index).ok_or(Halt::Malformed)?;
        self.copy(value)
    }

    fn put(&mut self, index: u32) -> Result<(), Halt> {
        let value = self.top()?;
        self.budget.spend(value.bytes.saturating_add(SLOT))?;
        self.memo.insert(index, value);
        Ok(())
    }

    fn storage(&mut self, id: Value) -> Result<(), Halt> {
        self.budget.spend(id.bytes.saturating_add(TENSOR))?;
        self.push(Value {
            text: 0,
            tensors: id.tensors.max(1),
            ..id
        })
    }

    /// The result of a call, which holds no more than what went into it.
    fn call(&mut self, result: Value) -> Result<(), Halt> {
        self.budget.spend(result.bytes.saturating_add(ITEM))?;
        self.push(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(pickle: &[u8], bytes: u64) -> Result<Option<usize>, Exceeded> {
        measure(pickle, &mut Budget::new(bytes)).map(|rest| rest.map(<[u8]>::len))
    }

    #[test]
    fn a_pickle_ends_at_its_stop() {
        // {"a": (1, 2.0), "b": [None]} with a memo, then two more bytes.
        let pickle =
            b"\x80\x02}q\0(X\x01\0\0\0aK\x01G\x40\0\0\0\0\0\0\0\x86X\x01\0\0\0b]Nau.\x80\x02";
        assert_eq!(measured(pickle, 1 << 20), Ok(Some(2)));
    }

    #[test]
    fn what_no_reader_accepts_is_left_to_the_reader() {
        for pickle in [
            b"".as_slice(),
            b"\x80\x02",
            b"t.",
            b"(0t.",
            b"s.",
            b"h\x01.",
            b"X\xff\xff\xff\xffa.",
            b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffa.",
            b"cposix\nsystem",
            b"gx\n.",
            b"\xff.",
        ] {
            assert_eq!(measured(pickle, 1 << 20), Ok(None), "{pickle:?}");
        }
    }

    #[test]
    fn copies_of_copies_count() {
        // A pair of itself, over and over: 2^40 values after 80 bytes.
        let mut doubling = b"\x80\x02K\x01".to_vec();
        for _ in 0..40 {
            doubling.extend(b"2\x86");
        }
        assert_eq!(measured(&doubling, 32 << 20), Err(Exceeded));
        let mut memo = b"\x80\x02K\x01q\0".to_vec();
        for _ in 0..40 {
            memo.extend(b"h\0h\0\x86q\0");
        }
        assert_eq!(measured(&memo, 32 << 20), Err(Exceeded));
    }

    #[test]
    fn names_of_nested_tensors_count() {
        // A key of 64 KiB around a list of a thousand storages, each of which would bear it.
        let mut pickle = b"\x80\x02}X\0\0\x01\0".to_vec();
        pickle.extend([b'k'; 1 << 16]);
        pickle.extend(b"](");
        for _ in 0..1000 {
            pickle.extend(b")Q");
        }
        pickle.extend(b"es.");
        assert_eq!(measured(&pickle, 32 << 20), Err(Exceeded));
    }
}
