//! `convert-weights`: the program's command of that name, from a release build.

use crate::{Outcome, fin};

pub fn run(args: &[String]) -> Outcome {
    let mut fin = fin();
    // Paths on the command line are relative to where it was typed.
    if let Ok(here) = std::env::current_dir() {
        fin.current_dir(here);
    }
    crate::run(fin.arg("convert-weights").args(args))
}
