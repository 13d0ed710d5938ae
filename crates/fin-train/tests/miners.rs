//! Selections against pytorch-metric-learning; see `fixtures/losses/generate.py`.

mod common;

use std::collections::BTreeSet;

use fin_core::weights::Checkpoint;
use fin_train::Options;
use fin_train::miner::{
    DistanceWeightedMiner, Mined, Miner, MinerBatch, UniformHistogramMiner, miner_from_name,
    miner_names,
};
use serde_json::{Value, json};

fn options(value: &Value) -> Options {
    value.as_object().unwrap().clone()
}

fn record() -> (Value, Checkpoint) {
    let text = std::fs::read_to_string(common::fixture("losses/miners.json")).unwrap();
    let tensors = Checkpoint::open(common::fixture("losses/miners.safetensors")).unwrap();
    (serde_json::from_str(&text).unwrap(), tensors)
}

/// Calls back with every case and its batch.
fn each_case(mut check: impl FnMut(&Value, &MinerBatch<'_>)) {
    let (record, tensors) = record();
    for case in record["cases"].as_array().unwrap() {
        let labels: Vec<usize> = serde_json::from_value(case["labels"].clone()).unwrap();
        let key = format!("{}.embeddings", case["name"].as_str().unwrap());
        let values = tensors.read_f32(&key).unwrap();
        let dim = tensors.get(&key).unwrap().shape()[1];
        check(case, &MinerBatch::new(&values, dim, &labels).unwrap());
    }
}

fn sorted<const N: usize>(mut tuples: Vec<[usize; N]>) -> Vec<[usize; N]> {
    tuples.sort_unstable();
    tuples
}

#[test]
fn selections_agree() {
    let mut compared = 0;
    each_case(|case, batch| {
        for selected in case["selected"].as_array().unwrap() {
            let name = selected["miner"].as_str().unwrap();
            let what = format!("{}: {name} {}", case["what"], selected["options"]);
            let miner = miner_from_name(name, &options(&selected["options"])).unwrap();
            let mined = miner.mine(batch).unwrap();
            let indices: Vec<Vec<usize>> =
                serde_json::from_value(selected["indices"].clone()).unwrap();
            let zip = |a: usize, b: usize| -> Vec<[usize; 2]> {
                indices[a]
                    .iter()
                    .zip(&indices[b])
                    .map(|(a, b)| [*a, *b])
                    .collect()
            };
            match mined {
                Mined::Triplets(triplets) => {
                    assert_eq!(indices.len(), 3, "{what}");
                    let expected = (0..indices[0].len())
                        .map(|i| [0, 1, 2].map(|side: usize| indices[side][i]))
                        .collect();
                    assert_eq!(sorted(triplets), sorted(expected), "{what}");
                }
                Mined::Pairs { positive, negative } => {
                    assert_eq!(indices.len(), 4, "{what}");
                    // A pair and its reverse are as far apart: where a number of pairs is cut off
                    // between the two, which one stays is the sort's business.
                    let order = |mut pairs: Vec<[usize; 2]>| {
                        if name == "hdc" {
                            pairs.iter_mut().for_each(|pair| pair.sort_unstable());
                        }
                        sorted(pairs)
                    };
                    assert_eq!(order(positive), order(zip(0, 1)), "{what}");
                    assert_eq!(order(negative), order(zip(2, 3)), "{what}");
                }
            }
            compared += 1;
        }
    });
    assert!(compared > 100, "{compared}");
}

#[test]
fn distance_weights_agree_and_negatives_are_drawn_by_them() {
    each_case(|case, batch| {
        let Some(expected) = case.get("distance_weighted") else {
            return;
        };
        let miner = |seed| DistanceWeightedMiner::new(0.7, 1.5, seed).unwrap();
        let weights = miner(0).weights(batch);
        for (found, expected) in weights.iter().zip(expected["weights"].as_array().unwrap()) {
            match expected.as_array() {
                None => assert!(found.iter().all(|weight| *weight == 0.0)),
                Some(expected) => {
                    for (found, expected) in found.iter().zip(expected) {
                        let expected = expected.as_f64().unwrap();
                        assert!(
                            (found - expected).abs() < 1e-9,
                            "{found} against {expected}"
                        );
                    }
                }
            }
        }
        // Draws of many seeds come in these proportions, within five standard deviations.
        let mut counts = vec![vec![0usize; batch.len()]; batch.len()];
        for seed in 0..400 {
            for [a, p, n] in miner(seed).mine(batch).unwrap().triplets() {
                assert!(a != p && batch.labels()[a] == batch.labels()[p]);
                counts[a][n] += 1;
            }
        }
        for (counts, weights) in counts.iter().zip(&weights) {
            let draws = counts.iter().sum::<usize>() as f64;
            for (&count, weight) in counts.iter().zip(weights) {
                let expected = draws * weight;
                let deviation = (expected * (1.0 - weight)).max(0.0).sqrt();
                assert!(
                    (count as f64 - expected).abs() <= 5.0 * deviation + 1e-9,
                    "{count} against {expected}"
                );
            }
        }
    });
}

#[test]
fn histogram_bins_agree_and_each_has_its_draws() {
    each_case(|case, batch| {
        let Some(expected) = case.get("uniform_histogram") else {
            return;
        };
        let miner = UniformHistogramMiner::new(12, 3, 5, 1).unwrap();
        let bins = miner.bins(batch);
        let (positive, negative) = Mined::all_pairs(batch.labels()).pairs();
        let (drawn_positive, drawn_negative) = miner.mine(batch).unwrap().pairs();
        for (i, (pairs, drawn, count)) in
            [(positive, drawn_positive, 3), (negative, drawn_negative, 5)]
                .into_iter()
                .enumerate()
        {
            let expected: Vec<usize> = serde_json::from_value(expected["bins"][i].clone()).unwrap();
            let bin_of = |pair: &[usize; 2]| bins[i].iter().position(|bin| bin.contains(pair));
            let found: Vec<usize> = pairs.iter().map(|pair| bin_of(pair).unwrap()).collect();
            assert_eq!(found, expected, "{}", case["what"]);
            for (number, bin) in bins[i].iter().enumerate() {
                let drawn = drawn
                    .iter()
                    .filter(|pair| bin_of(pair) == Some(number))
                    .count();
                assert_eq!(drawn, if bin.is_empty() { 0 } else { count });
            }
        }
    });
}

#[test]
fn every_miner_selects_true_pairs_and_is_a_function_of_the_batch() {
    each_case(|case, batch| {
        let labels = batch.labels();
        for name in miner_names() {
            let miner = miner_from_name(name, &Options::new()).unwrap();
            assert_eq!(miner.name(), name);
            let again = miner_from_name(name, &miner.options()).unwrap();
            assert_eq!(again.options(), miner.options());
            let mined = miner.mine(batch).unwrap();
            assert_eq!(mined, again.mine(batch).unwrap(), "{name}");
            let (positive, negative) = mined.pairs();
            let true_positive = |&[a, p]: &[usize; 2]| a != p && labels[a] == labels[p];
            assert!(positive.iter().all(true_positive), "{name} {case}");
            assert!(
                negative.iter().all(|&[a, n]| labels[a] != labels[n]),
                "{name} {case}"
            );
        }
    });
}

/// The contrastive loss of some items of a batch, by hand.
fn contrastive(batch: &MinerBatch<'_>, items: &[usize]) -> f64 {
    let distances = batch.distances();
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for &a in items {
        for &b in items.iter().filter(|&&b| b != a) {
            let d = distances.at(a, b);
            if batch.labels()[a] == batch.labels()[b] {
                near.push(d);
            } else {
                far.push((1.0 - d).max(0.0));
            }
        }
    }
    [near, far]
        .iter_mut()
        .map(|losses| {
            losses.retain(|loss| *loss > 0.0);
            losses.iter().sum::<f64>() / losses.len().max(1) as f64
        })
        .sum()
}

/// Of five items there are five sets of four, all of which come up in as many trials.
#[test]
fn the_set_with_the_largest_loss_wins() {
    let mut checked = 0;
    each_case(|case, batch| {
        let made = json!({"loss": "contrastive", "output_batch_size": 4, "num_trials": 400});
        let miner = miner_from_name("maximum_loss", &options(&made)).unwrap();
        let (positive, negative) = miner.mine(batch).unwrap().pairs();
        assert_eq!(positive.len() + negative.len(), 12);
        let items: BTreeSet<usize> = positive
            .iter()
            .chain(&negative)
            .flatten()
            .copied()
            .collect();
        assert_eq!(items.len(), 4, "{}", case["what"]);
        if batch.len() == 5 {
            let items: Vec<usize> = items.into_iter().collect();
            let best = (0..5)
                .map(|left_out| {
                    let rest: Vec<usize> = (0..5).filter(|&i| i != left_out).collect();
                    contrastive(batch, &rest)
                })
                .fold(0.0, f64::max);
            assert!(best > 0.0);
            assert!((contrastive(batch, &items) - best).abs() < 1e-6);
            checked += 1;
        }
    });
    assert_eq!(checked, 2);
}

#[test]
fn batches_without_pairs_and_without_directions_do_not_panic() {
    for (labels, values) in [
        (vec![0, 0, 0], vec![1.0, 0.0, 0.0, 1.0, 0.5, 0.5]),
        (vec![0, 1, 2], vec![1.0, 0.0, 0.0, 1.0, 0.5, 0.5]),
        (vec![4], vec![0.0, 0.0]),
        (vec![0, 0, 1, 1], vec![0.0; 8]),
        (vec![0, 0, 1, 1], vec![f32::NAN; 8]),
    ] {
        let batch = MinerBatch::new(&values, 2, &labels).unwrap();
        for name in miner_names() {
            let miner = miner_from_name(name, &Options::new()).unwrap();
            let mined = miner.mine(&batch).unwrap();
            assert!(labels.len() == 4 || mined.triplets().is_empty(), "{name}");
        }
    }
    assert!(MinerBatch::new(&[1.0], 1, &[]).is_err());
    assert!(MinerBatch::new(&[1.0, 2.0, 3.0], 2, &[0]).is_err());
}

#[test]
fn random_miners_follow_their_seed_and_the_batch() {
    let values: Vec<f32> = (0..144).map(|i| ((i * i) as f32).sin()).collect();
    let labels: Vec<usize> = (0..24).map(|i| i % 4).collect();
    let mut moved = values.clone();
    moved[0] += 1e-6;
    for name in ["distance_weighted", "uniform_histogram"] {
        let mine = |values: &[f32], seed: u64| {
            let options = json!({"seed": seed});
            let miner = miner_from_name(name, options.as_object().unwrap()).unwrap();
            let batch = MinerBatch::new(values, 6, &labels).unwrap();
            miner.mine(&batch).unwrap()
        };
        assert_eq!(mine(&values, 1), mine(&values, 1));
        assert_ne!(mine(&values, 1), mine(&values, 2));
        assert_ne!(mine(&values, 1), mine(&moved, 1));
    }
}

#[test]
fn selections_turn_into_one_another() {
    let pairs = Mined::Pairs {
        positive: vec![[0, 1], [1, 0], [2, 3]],
        negative: vec![[0, 2], [0, 3], [1, 2]],
    };
    assert_eq!(pairs.triplets(), [[0, 1, 2], [0, 1, 3], [1, 0, 2]]);
    let triplets = Mined::Triplets(pairs.triplets());
    assert_eq!(
        triplets.pairs(),
        (vec![[0, 1], [0, 1], [1, 0]], vec![[0, 2], [0, 3], [1, 2]])
    );
    assert_eq!(triplets.weights(5), [1.0, 1.0, 2.0 / 3.0, 1.0 / 3.0, 0.0]);
    assert_eq!(Mined::Triplets(vec![]).weights(2), [1.0, 1.0]);
}

#[test]
fn options_that_cannot_be_used_are_named() {
    for (name, options, what) in [
        (
            "batch_easy_hard",
            json!({"pos_strategy": "medium"}),
            "medium",
        ),
        (
            "batch_easy_hard",
            json!({"pos_strategy": "all", "neg_strategy": "semihard"}),
            "semihard",
        ),
        (
            "hdc",
            json!({"filter_percentage": 0.0}),
            "filter_percentage",
        ),
        ("triplet_margin", json!({"type_of_triplets": "odd"}), "odd"),
        ("uniform_histogram", json!({"num_bins": 0}), "num_bins"),
        ("angular", json!({"angle": "wide"}), "wide"),
        ("distance_weighted", json!({"cutoff": 0.0}), "cutoff"),
        ("maximum_loss", json!({"num_trials": 0}), "num_trials"),
    ] {
        let error = miner_from_name(name, options.as_object().unwrap())
            .unwrap_err()
            .to_string();
        assert!(error.contains(what), "{error}");
    }
}
