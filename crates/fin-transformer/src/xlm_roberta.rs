//! XLM-RoBERTa (Conneau et al. 2020, <https://arxiv.org/abs/1911.02116>): [`Bert`] whose positions
//! are counted over the ids that are not padding and start after the padding's own row, as in
//! `transformers`' `models/xlm_roberta/modeling_xlm_roberta.py`. RoBERTa and CamemBERT are the
//! same network.

use std::path::Path;

use burn::tensor::Device;
use fin_core::weights::Names;
use fin_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::bert::{Bert, BertConfig};

/// The fields of XLM-RoBERTa's `config.json` that change the numbers: those of BERT, and a
/// padding id that is always there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct XlmRobertaConfig {
    /// What it shares with BERT.
    #[serde(flatten)]
    pub bert: BertConfig,
}

/// Upstream's default padding id.
const PAD_TOKEN_ID: u32 = 1;

impl XlmRobertaConfig {
    /// Id that batches are padded with; also the padding's row of the position table.
    pub fn pad_token_id(&self) -> u32 {
        self.bert.pad_token_id.unwrap_or(PAD_TOKEN_ID)
    }

    /// Largest number of tokens: the rows of the position table after the padding's own.
    pub fn max_tokens(&self) -> usize {
        let padding = self.pad_token_id() as usize;
        self.bert
            .max_position_embeddings
            .saturating_sub(padding + 1)
    }

    /// Checks what the layers rely on.
    ///
    /// # Errors
    /// [`Error::Config`] names the field.
    pub(crate) fn check(&self, path: &Path) -> Result<()> {
        self.bert.check(path)?;
        if self.max_tokens() == 0 {
            let rows = self.bert.max_position_embeddings;
            let reason = format!(
                "{rows} rows leave none after the padding's own, which is row {}",
                self.pad_token_id()
            );
            return Err(Error::config(path, "max_position_embeddings", reason));
        }
        if self.pad_token_id() as usize >= self.bert.vocab_size {
            let reason = format!(
                "{} is not in a vocabulary of {}",
                self.pad_token_id(),
                self.bert.vocab_size
            );
            return Err(Error::config(path, "pad_token_id", reason));
        }
        Ok(())
    }

    /// Makes the network, with its pooler or without.
    ///
    /// # Errors
    /// [`Error::Argument`] where `hidden_act` is unknown.
    pub fn init(&self, pooler: bool, device: &Device) -> Result<Bert> {
        let padding = self.pad_token_id() as usize;
        self.bert.init_with(pooler, Some(padding), device)
    }
}

/// How the parameter paths map to upstream key names.
pub fn names() -> Names {
    let mut names = Bert::names();
    names.ignored.push("lm_head.*".into());
    names
}
