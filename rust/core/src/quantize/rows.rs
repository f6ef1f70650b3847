//! The rows of a batch: what is done with each, or why it can't be.

use std::ops::Range;

use rayon::ThreadPool;
use rayon::prelude::*;

use super::job::{self, Layer};
use crate::error::RowError;
use crate::plan::{self, Asked, Options, Plan};
use crate::pool::SPREAD;
use crate::relation::described::{Described, message};
use crate::relation::errors::Entry;
use crate::relation::failed::Failed;
use crate::relation::weights::{Importance, Weights};

/// Rows that are checked together, and kept together.
const BLOCK: usize = 1 << 12;

/// What is to be done with the rows of a batch. A batch may have millions, most of them alike: rows
/// that follow each other and are alike take no more here than one does.
pub(super) struct Rows<'a> {
    pub(super) weights: &'a Weights,
    plan: &'a Plan,
    options: &'a Options,
    blocks: Vec<Block<'a>>,
}

struct Block<'a> {
    runs: Vec<Run<'a>>,
}

/// Rows that follow each other and have one fate.
struct Run<'a> {
    /// Where they end in their block.
    end: usize,
    fate: Fate<'a>,
}

#[expect(clippy::large_enum_variant, reason = "nearly all are good")]
pub(super) enum Fate<'a> {
    Good(Kind<'a>),
    /// Of one row alone.
    Failed(Box<Failure<'a>>),
}

/// What is done with a row that can be encoded or kept.
#[derive(Clone, Copy)]
pub(super) struct Kind<'a> {
    pub(super) layer: Layer,
    described: Described<'a>,
}

/// A row that failed, what it says, and what was asked of it.
pub(super) struct Failure<'a> {
    described: Described<'a>,
    asked: Asked,
    entry: Entry,
}

impl<'a> Rows<'a> {
    /// Check all rows' metadata; many small rows are spread over the threads.
    pub(super) fn check(
        weights: &'a Weights,
        plan: &'a Plan,
        options: &'a Options,
        pool: &ThreadPool,
    ) -> Self {
        let mut rows = Self { weights, plan, options, blocks: Vec::new() };
        let starts = 0..weights.len.div_ceil(BLOCK);
        let block = |at: usize| rows.block(at * BLOCK..weights.len.min((at + 1) * BLOCK));
        rows.blocks = if weights.len < SPREAD {
            starts.map(block).collect()
        } else {
            pool.install(|| starts.into_par_iter().with_max_len(1).map(block).collect())
        };
        rows
    }

    fn block(&self, rows: Range<usize>) -> Block<'a> {
        let mut block = Block { runs: Vec::new() };
        if self.asks_the_same() && self.weights.repeats_over(&rows) {
            let fate = self.judge(rows.start);
            if let Fate::Good(_) = fate {
                return Block { runs: vec![Run { end: rows.len(), fate }] };
            }
        }
        for (end, row) in (1..).zip(rows) {
            match block.runs.last_mut() {
                // What was found of the row before holds for one that says the same.
                Some(Run { end: last, fate: Fate::Good(_) }) if self.repeats(row) => *last = end,
                _ => block.push(end, self.judge(row)),
            }
        }
        block
    }

    /// Whether a row says the same as the one before it and the same is asked of it.
    fn repeats(&self, row: usize) -> bool {
        self.asks_the_same() && self.weights.repeats(row)
    }

    /// Whether names make no difference to what is asked.
    fn asks_the_same(&self) -> bool {
        self.plan.is_empty() && self.options.absmax.is_empty() && self.options.importance.is_empty()
    }

    fn judge(&self, row: usize) -> Fate<'a> {
        let read = self.weights.described(row);
        let asked = plan::resolve(self.weights, row, self.plan, self.options);
        let known = self.weights.name(row).and_then(|name| self.options.known_absmax(name));
        let importance = self.importance(row);
        match job::check(self.weights, row, &read, &asked, (known, importance)) {
            Ok(layer) => Fate::Good(Kind { layer, described: read.0 }),
            Err(error) => Fate::Failed(self.failure(row, read.0, asked, error)),
        }
    }

    /// How much the columns of a row's layer matter, where that is told, by the row or for its layer.
    pub(super) fn importance(&self, row: usize) -> Option<Importance<'a>> {
        let of_layer = || {
            let name = self.weights.name(row)?;
            self.options.known_importance(name).map(|values| Importance { values, null: None })
        };
        self.weights.importance(row).or_else(of_layer)
    }

    /// How much the columns matter by what the weights of all of a row's layer suggest, where that is known.
    pub(super) fn suggested(&self, row: usize) -> Option<&'a [f32]> {
        self.weights.name(row).and_then(|name| self.options.suggested_importance(name))
    }

    fn failure(
        &self,
        row: usize,
        described: Described<'a>,
        asked: Asked,
        error: RowError,
    ) -> Box<Failure<'a>> {
        let weights = self.weights;
        let part = weights.part(row);
        let error = error.in_layer(part.map_or(0, |part| part.offset));
        let (name, file) = (weights.name(row), weights.source_file(row));
        let shape = part.map(|part| part.layer_shape);
        let message = message(name, &described, shape, file, &error);
        Box::new(Failure { described, asked, entry: Entry { error, message } })
    }

    /// A good row turned out to be bad.
    pub(super) fn fail(&mut self, row: usize, error: RowError) {
        let (described, _) = self.weights.described(row);
        let asked = plan::resolve(self.weights, row, self.plan, self.options);
        let failure = self.failure(row, described, asked, error);
        self.blocks[row / BLOCK].set(row % BLOCK, Fate::Failed(failure));
    }

    /// Keep a good row's scales as float32.
    pub(super) fn widen_scales(&mut self, row: usize) {
        let Some(&Kind { layer: Layer::Encode(mut job), described }) = self.kind(row) else {
            return;
        };
        job.bound.layout = job.bound.layout.with_wide_scales();
        let kind = Kind { layer: Layer::Encode(job), described };
        self.blocks[row / BLOCK].set(row % BLOCK, Fate::Good(kind));
    }

    pub(super) fn len(&self) -> usize {
        self.weights.len
    }

    /// What is done with a row; nothing where it failed.
    pub(super) fn kind(&self, row: usize) -> Option<&Kind<'a>> {
        self.run(row).1.kind()
    }

    /// The rows around `row` that have one fate, and that.
    fn run(&self, row: usize) -> (Range<usize>, &Fate<'a>) {
        let (block, start) = (&self.blocks[row / BLOCK], row / BLOCK * BLOCK);
        let at = block.find(row % BLOCK);
        (start + block.start(at)..start + block.runs[at].end, &block.runs[at].fate)
    }

    pub(super) fn layer(&self, row: usize) -> Option<&Layer> {
        self.kind(row).map(|kind| &kind.layer)
    }

    /// What a row says of its tensor.
    pub(super) fn described(&self, row: usize) -> Described<'a> {
        self.run(row).1.described()
    }

    /// How many rows from `row` on, at most `most` but one at least, are known to be of one kind.
    pub(super) fn alike(&self, row: usize, most: usize) -> usize {
        (self.run(row).0.end - row).min(most).max(1)
    }

    /// All rows in order, those that follow each other and are of one kind together.
    pub(super) fn runs(&self) -> impl Iterator<Item = (Range<usize>, &Fate<'a>)> + Clone {
        let mut end = 0;
        let runs = (0..).zip(&self.blocks).flat_map(|(at, block)| {
            block.runs.iter().map(move |run| (at * BLOCK + run.end, &run.fate))
        });
        runs.map(move |(next, fate)| (std::mem::replace(&mut end, next)..next, fate))
    }

    /// The rows that failed.
    pub(super) fn failed(&self) -> Vec<Failed<'_>> {
        let mut failed = Vec::new();
        for (run, fate) in self.runs() {
            if let Fate::Failed(failure) = fate {
                let Failure { described, asked, entry } = &**failure;
                let name = self.weights.name(run.start);
                let asked = Some((asked.name(), asked.settings()));
                failed.push(Failed { row: run.start, name, described, asked, entry });
            }
        }
        failed
    }
}

impl<'a> Fate<'a> {
    /// What is done with the row; nothing where it failed.
    pub(super) fn kind(&self) -> Option<&Kind<'a>> {
        match self {
            Self::Good(kind) => Some(kind),
            Self::Failed(_) => None,
        }
    }

    /// What the row says of its tensor.
    pub(super) fn described(&self) -> Described<'a> {
        match self {
            Self::Good(kind) => kind.described,
            Self::Failed(failure) => failure.described,
        }
    }

    /// Whether the same is done with rows of both.
    fn is_like(&self, other: &Self) -> bool {
        let (Self::Good(kind), Self::Good(other)) = (self, other) else {
            return false;
        };
        kind.described == other.described && kind.layer == other.layer
    }
}

impl<'a> Block<'a> {
    /// Add the row that ends at `end`.
    fn push(&mut self, end: usize, fate: Fate<'a>) {
        match self.runs.last_mut() {
            Some(last) if last.fate.is_like(&fate) => last.end = end,
            _ => self.runs.push(Run { end, fate }),
        }
    }

    /// The run of a row.
    fn find(&self, row: usize) -> usize {
        self.runs.partition_point(|run| run.end <= row)
    }

    /// Where a run begins.
    fn start(&self, at: usize) -> usize {
        at.checked_sub(1).map_or(0, |before| self.runs[before].end)
    }

    /// Give one row of a run of good ones another fate.
    fn set(&mut self, row: usize, fate: Fate<'a>) {
        let at = self.find(row);
        let (start, end) = (self.start(at), self.runs[at].end);
        let rest = self.runs[at].fate.kind().copied();
        let before = rest.filter(|_| start < row).map(|kind| (row, Fate::Good(kind)));
        let behind = rest.filter(|_| row + 1 < end).map(|kind| (end, Fate::Good(kind)));
        let runs = before.into_iter().chain([(row + 1, fate)]).chain(behind);
        self.runs.splice(at..=at, runs.map(|(end, fate)| Run { end, fate }));
    }
}
