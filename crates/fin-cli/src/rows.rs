//! Rows of data as they are compared with each other: for `fin check`, `fin split` and `fin fit`.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};

use clap::Args;
use fin_core::image::{image_files, images_by_class, is_image_path};
use fin_core::input::{
    Column, ReadOptions, column_names, read_labelled, read_pairs, read_scored_pairs,
    read_scored_triplets,
};
use fin_core::{Error, Result};
use fin_pointnet::mesh::{is_mesh_path, meshes_by_class};
use fin_train::dataset::{Compared, Example, Form};

use crate::args::read_options;
use crate::data::{labelled_columns, pair_columns, scored_columns, triplet_columns};
use crate::family::base_of;
use crate::report::note;

/// What rows of a file are.
#[derive(Debug, Args)]
#[command(next_help_heading = "Data")]
pub struct RowArgs {
    /// What a row is: pairs (query, document, any negatives), scored_pairs (text, text, score),
    /// margins (query, positive, negative, margin) or labelled (item, label) [default: what the
    /// names of the columns say, else pairs]
    #[arg(long, value_name = "FORM")]
    pub form: Option<Form>,

    /// Columns in the order above, by name or zero-based index, as in query,answer
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub columns: Vec<Column>,

    /// The first row of .csv and .tsv files is data, not column names
    #[arg(long)]
    pub no_header: bool,
}

impl RowArgs {
    /// The rows of this file or directory.
    pub fn source<'a>(&'a self, path: &'a Path) -> RowSource<'a> {
        RowSource {
            path,
            form: self.form,
            columns: &self.columns,
            read: read_options(self.no_header, None),
        }
    }
}

/// Where rows come from.
#[derive(Debug, Clone, Copy)]
pub struct RowSource<'a> {
    pub path: &'a Path,
    /// What they are; else what the columns' names say.
    pub form: Option<Form>,
    pub columns: &'a [Column],
    pub read: ReadOptions,
}

/// A row as it stands in its file.
#[derive(Debug, Clone, Default)]
pub struct RawRow {
    pub line: u64,
    pub items: Vec<String>,
    pub negatives: Vec<String>,
    pub score: Option<f32>,
    pub label: Option<String>,
}

/// The rows of a file or a directory.
#[derive(Debug)]
pub struct Rows {
    pub path: PathBuf,
    pub form: Form,
    /// The directory that paths among the items are relative to.
    pub base: PathBuf,
    pub rows: Vec<RawRow>,
}

impl RowSource<'_> {
    /// Reads the rows. A directory has one a file, labelled with the directory that it is in.
    pub fn read(&self) -> Result<Rows> {
        let form = self.form()?;
        let rows: Vec<RawRow> = if self.path.is_dir() {
            self.by_class()?
        } else {
            match form {
                Form::Pairs => {
                    let rows = read_pairs(self.path, &pair_columns(self.columns)?, self.read)?;
                    let rows = rows.into_iter().map(|row| RawRow {
                        line: row.line,
                        items: vec![row.anchor, row.positive],
                        negatives: row.negatives,
                        ..RawRow::default()
                    });
                    rows.collect()
                }
                Form::ScoredPairs => {
                    let columns = scored_columns(self.columns)?;
                    let rows = read_scored_pairs(self.path, &columns, self.read)?;
                    let rows = rows.into_iter().map(|row| RawRow {
                        line: row.line,
                        items: vec![row.sentence1, row.sentence2],
                        score: Some(row.score),
                        ..RawRow::default()
                    });
                    rows.collect()
                }
                Form::Margins => {
                    let columns = triplet_columns(self.columns)?;
                    let rows = read_scored_triplets(self.path, &columns, self.read)?;
                    let rows = rows.into_iter().map(|row| RawRow {
                        line: row.line,
                        items: vec![row.query, row.positive],
                        negatives: vec![row.negative],
                        score: Some(row.margin),
                        ..RawRow::default()
                    });
                    rows.collect()
                }
                Form::Labelled => {
                    let columns = labelled_columns(self.columns)?;
                    let rows = read_labelled(self.path, &columns, self.read)?;
                    let rows = rows.into_iter().map(|row| RawRow {
                        line: row.line,
                        items: vec![row.text],
                        label: Some(row.label),
                        ..RawRow::default()
                    });
                    rows.collect()
                }
            }
        };
        Ok(Rows {
            path: self.path.to_path_buf(),
            form,
            base: match self.path.is_dir() {
                true => self.path.to_path_buf(),
                false => base_of(self.path),
            },
            rows,
        })
    }

    fn form(&self) -> Result<Form> {
        let is_directory = self.path.is_dir();
        if is_directory && (!self.columns.is_empty() || self.form.is_some_and(is_of_files)) {
            let reason = "a directory holds files with a class each; it has no columns and no \
                          other form";
            return Err(Error::argument("form", reason));
        }
        match self.form {
            Some(form) => Ok(form),
            None if is_directory => Ok(Form::Labelled),
            None => {
                let names = column_names(self.path, self.read)?.unwrap_or_default();
                let form = Form::of_columns(&names);
                let columns = form.columns().join(", ");
                note!(
                    "{}: rows are taken as {form} ({columns}); --form says otherwise",
                    self.path.display()
                );
                Ok(form)
            }
        }
    }

    fn by_class(&self) -> Result<Vec<RawRow>> {
        // Where it holds no images, they are meshes; the error is about those then.
        let files = match image_files(self.path) {
            Ok(found) if !found.is_empty() => images_by_class(self.path)?,
            _ => meshes_by_class(self.path)?,
        };
        let rows = files.into_iter().map(|(path, class)| RawRow {
            // Relative to the directory, as cells of a file are to the one that it is in.
            items: vec![
                path.strip_prefix(self.path)
                    .unwrap_or(&path)
                    .display()
                    .to_string(),
            ],
            label: Some(class),
            ..RawRow::default()
        });
        Ok(rows.collect())
    }
}

fn is_of_files(form: Form) -> bool {
    form != Form::Labelled
}

impl Rows {
    /// File and line of a row, or the path of an item of a directory.
    pub fn place(&self, row: usize) -> String {
        let row = &self.rows[row];
        match (row.line, row.items.first()) {
            (0, Some(item)) => self.path.join(item).display().to_string(),
            (line, _) => format!("{}:{line}", self.path.display()),
        }
    }
}

/// The rows as they are compared: texts by what they say, images and meshes by their content where
/// files of the same size tell that it may be equal.
pub fn compared(all: &[&Rows]) -> Result<Vec<Vec<Example>>> {
    let mut files = Files::default();
    for rows in all {
        for item in rows
            .rows
            .iter()
            .flat_map(|row| row.items.iter().chain(&row.negatives))
        {
            files.note(item, &rows.base)?;
        }
    }
    let compared = all.iter().map(|rows| {
        let mut compare = |texts: &[String]| -> Result<Vec<Compared>> {
            texts
                .iter()
                .map(|text| files.compared(text, &rows.base))
                .collect()
        };
        let examples = rows.rows.iter().map(|row| {
            Ok::<_, Error>(Example {
                items: compare(&row.items)?,
                negatives: compare(&row.negatives)?,
                score: row.score,
                label: row.label.clone(),
            })
        });
        examples.collect()
    });
    compared.collect()
}

/// The file that a cell is the path of, if any.
pub fn file_of(cell: &str, base: &Path) -> Option<PathBuf> {
    let path = base.join(cell);
    ((is_image_path(cell) || is_mesh_path(cell)) && path.is_file()).then_some(path)
}

/// Files among the items.
#[derive(Default)]
struct Files {
    sizes: HashMap<PathBuf, u64>,
    /// How many have a size.
    counts: HashMap<u64, usize>,
    keys: HashMap<PathBuf, String>,
}

impl Files {
    fn note(&mut self, cell: &str, base: &Path) -> Result<()> {
        if let Some(path) = file_of(cell, base)
            && !self.sizes.contains_key(&path)
        {
            let size = std::fs::metadata(&path)
                .map_err(Error::io(&path, "read"))?
                .len();
            *self.counts.entry(size).or_default() += 1;
            self.sizes.insert(path, size);
        }
        Ok(())
    }

    fn compared(&mut self, cell: &str, base: &Path) -> Result<Compared> {
        let path = base.join(cell);
        let Some(&size) = self.sizes.get(&path) else {
            return Ok(Compared::text(cell));
        };
        if let Some(key) = self.keys.get(&path) {
            return Ok(Compared::with_key(cell, key));
        }
        let key = match self.counts.get(&size) {
            Some(1) => path.display().to_string(),
            _ => {
                let bytes = std::fs::read(&path).map_err(Error::io(&path, "read"))?;
                let mut hasher = DefaultHasher::new();
                hasher.write(&bytes);
                format!("{size} bytes, {:016x}", hasher.finish())
            }
        };
        self.keys.insert(path, key.clone());
        Ok(Compared::with_key(cell, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_alike_by_content_and_texts_by_what_they_say() {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in [
            ("a.png", "same"),
            ("b.png", "same"),
            ("c.png", "else"),
            ("d.png", "longer"),
        ] {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        let row = |item: &str| RawRow {
            items: vec![item.into()],
            ..RawRow::default()
        };
        let rows = Rows {
            path: dir.path().join("list.csv"),
            form: Form::Labelled,
            base: dir.path().to_path_buf(),
            rows: ["a.png", "b.png", "c.png", "d.png", "no.png", "NO.png"]
                .map(row)
                .into(),
        };
        let found = compared(&[&rows]).unwrap().remove(0);
        let keys: Vec<&str> = found.iter().map(|row| row.items[0].key.as_str()).collect();
        assert_eq!(keys[0], keys[1]);
        assert_ne!(keys[0], keys[2]);
        assert!(keys[3].ends_with("d.png"), "{keys:?}");
        assert_eq!(keys[4..], ["no.png", "no.png"]);
        assert_eq!(found[1].items[0].text, "b.png");
    }
}
