//! Batches of items of like length under a budget.

/// Limits on one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Largest number of items.
    pub max_items: usize,
    /// Largest padded cost: items times the cost of the longest (for text, tokens). An item
    /// that exceeds it alone has a batch to itself.
    pub max_cost: usize,
}

impl Default for BatchLimits {
    /// 64 items and 4,096 padded tokens.
    fn default() -> Self {
        Self {
            max_items: 64,
            max_cost: 4096,
        }
    }
}

/// Groups items by cost, longest first, so that the first batch needs the most memory and
/// padding is rare. Returns indices into `costs`; every index occurs once.
pub fn plan_batches(costs: &[usize], limits: BatchLimits) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..costs.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(costs[i]));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut longest = 0;
    for i in order {
        let cost = costs[i].max(1);
        match batches.last_mut() {
            Some(batch)
                if batch.len() < limits.max_items.max(1)
                    && (batch.len() + 1) * longest <= limits.max_cost =>
            {
                batch.push(i);
            }
            _ => {
                longest = cost;
                batches.push(vec![i]);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_once_within_both_limits() {
        let costs: Vec<usize> = (0..500).map(|i| (i * 7919) % 130).collect();
        let limits = BatchLimits {
            max_items: 16,
            max_cost: 512,
        };
        let batches = plan_batches(&costs, limits);
        let mut seen = vec![false; costs.len()];
        for batch in &batches {
            let longest = batch.iter().map(|&i| costs[i]).max().unwrap();
            assert!(batch.len() <= 16 && (batch.len() == 1 || batch.len() * longest <= 512));
            for &i in batch {
                assert!(!std::mem::replace(&mut seen[i], true));
            }
        }
        assert!(seen.into_iter().all(|seen| seen));
        assert!(batches.len() < 500 / 3);
    }

    #[test]
    fn an_item_over_budget_is_alone_and_nothing_is_no_batch() {
        let limits = BatchLimits {
            max_items: 8,
            max_cost: 10,
        };
        assert_eq!(plan_batches(&[50, 5, 5], limits), [vec![0], vec![1, 2]]);
        assert!(plan_batches(&[], limits).is_empty());
    }
}
