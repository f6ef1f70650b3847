//! The rows of a batch: what is done with each, or why it can't be.

use std::ops::Range;

use rayon::ThreadPool;
use rayon::prelude::*;

use crate::dtype::ScaleDtype;
use crate::error::RowError;
use crate::layer::{self, Described, Job, Layer};
use crate::options::{Asked, Options, Plan};
use crate::pool::SPREAD;
use crate::relation::errors::Entry;
use crate::relation::failed::Failed;
use crate::relation::weights::Weights;

/// Rows that are checked together, and whose kinds are kept together.
const BLOCK: usize = 1 << 12;

/// What is to be done with the rows of a batch. A batch may have millions, most of them alike: a
/// row takes no more here than the number of its kind.
pub(super) struct Rows<'a> {
    pub(super) weights: &'a Weights,
    plan: &'a Plan,
    options: &'a Options,
    blocks: Vec<Block<'a>>,
}

struct Block<'a> {
    fates: Vec<Fate<'a>>,
    kinds: Vec<Kind<'a>>,
}

enum Fate<'a> {
    /// It is done as the kind of that number says.
    Good(u32),
    Failed(Box<Failure<'a>>),
}

/// What is done with a row, and with many others of its block.
#[derive(Clone, Copy)]
pub(super) struct Kind<'a> {
    pub(super) layer: Layer,
    dtype: Option<&'a str>,
    /// What its scales are rounded to, where it has any.
    pub(super) scale_dtype: Option<&'static str>,
}

/// A row that failed, what it says, and what was asked of it.
struct Failure<'a> {
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
            pool.install(|| starts.into_par_iter().map(block).collect())
        };
        rows
    }

    fn block(&self, rows: Range<usize>) -> Block<'a> {
        let mut block = Block { fates: Vec::with_capacity(rows.len()), kinds: Vec::new() };
        for row in rows {
            let fate = match self.judge(row) {
                Ok((layer, dtype)) => Fate::Good(block.kind(layer, dtype)),
                Err(failure) => Fate::Failed(failure),
            };
            block.fates.push(fate);
        }
        block
    }

    fn judge(&self, row: usize) -> Result<(Layer, Option<&'a str>), Box<Failure<'a>>> {
        let read = Described::read(self.weights, row);
        let asked = Asked::resolve(self.weights, row, self.plan, self.options);
        match layer::check(self.weights, row, &read, &asked, self.options) {
            Ok(layer) => Ok((layer, read.0.dtype)),
            Err(error) => Err(self.failure(row, read.0, asked, error)),
        }
    }

    fn failure(
        &self,
        row: usize,
        described: Described<'a>,
        asked: Asked,
        error: RowError,
    ) -> Box<Failure<'a>> {
        let weights = self.weights;
        let error = error.in_layer(weights.part(row).map_or(0, |part| part.offset));
        let (name, file) = (weights.name(row), weights.source_file(row));
        let message = layer::message(name, &described, file, &error);
        Box::new(Failure { described, asked, entry: Entry { error, message } })
    }

    /// A good row turned out to be bad.
    pub(super) fn fail(&mut self, row: usize, error: RowError) {
        let (described, _) = Described::read(self.weights, row);
        let asked = Asked::resolve(self.weights, row, self.plan, self.options);
        let failure = self.failure(row, described, asked, error);
        self.blocks[row / BLOCK].fates[row % BLOCK] = Fate::Failed(failure);
    }

    /// Keep a good row's scales as float32.
    pub(super) fn widen_scales(&mut self, row: usize) {
        let Some(&Kind { layer: Layer::Encode(mut job), dtype, .. }) = self.kind(row) else {
            return;
        };
        job.grouping.scale_dtype = ScaleDtype::F32;
        let block = &mut self.blocks[row / BLOCK];
        block.fates[row % BLOCK] = Fate::Good(block.kind(Layer::Encode(job), dtype));
    }

    pub(super) fn len(&self) -> usize {
        self.weights.len
    }

    /// What is done with a row; nothing where it failed.
    pub(super) fn kind(&self, row: usize) -> Option<&Kind<'a>> {
        let block = &self.blocks[row / BLOCK];
        match block.fates[row % BLOCK] {
            Fate::Good(number) => Some(&block.kinds[number as usize]),
            Fate::Failed(_) => None,
        }
    }

    pub(super) fn layer(&self, row: usize) -> Option<&Layer> {
        self.kind(row).map(|kind| &kind.layer)
    }

    /// What a row says of its tensor.
    pub(super) fn described(&self, row: usize) -> Described<'a> {
        match &self.blocks[row / BLOCK].fates[row % BLOCK] {
            Fate::Good(_) => Described::read(self.weights, row).0,
            Fate::Failed(failure) => failure.described,
        }
    }

    /// The dtype that a row says it has.
    pub(super) fn dtype(&self, row: usize) -> Option<&'a str> {
        let block = &self.blocks[row / BLOCK];
        match &block.fates[row % BLOCK] {
            Fate::Good(number) => block.kinds[*number as usize].dtype,
            Fate::Failed(failure) => failure.described.dtype,
        }
    }

    /// How many rows from `row` on, at most `most` but one at least, are known to be of one kind.
    pub(super) fn alike(&self, row: usize, most: usize) -> usize {
        let fates = &self.blocks[row / BLOCK].fates[row % BLOCK..];
        let Fate::Good(first) = fates[0] else { return 1 };
        let alike = |fate: &&Fate<'_>| matches!(fate, Fate::Good(number) if *number == first);
        fates.iter().take(most).take_while(alike).count().max(1)
    }

    /// All rows in order, those that follow each other and are of one kind together.
    pub(super) fn runs(&self) -> impl Iterator<Item = (Range<usize>, Option<&Kind<'a>>)> {
        let mut row = 0;
        std::iter::from_fn(move || {
            let first = row;
            (first < self.len()).then(|| {
                row += self.alike(first, BLOCK);
                (first..row, self.kind(first))
            })
        })
    }

    /// The rows that failed.
    pub(super) fn failed(&self) -> Vec<Failed<'_>> {
        let mut failed = Vec::new();
        for (at, block) in self.blocks.iter().enumerate() {
            for (row, fate) in (at * BLOCK..).zip(&block.fates) {
                if let Fate::Failed(failure) = fate {
                    let Failure { described, asked, entry } = &**failure;
                    let (name, asked) = (self.weights.name(row), Some(asked));
                    failed.push(Failed { row, name, described, asked, entry });
                }
            }
        }
        failed
    }
}

impl<'a> Block<'a> {
    /// The number of a kind, a new one where the last is another.
    fn kind(&mut self, layer: Layer, dtype: Option<&'a str>) -> u32 {
        let is_same = |last: &Kind<'_>| last.dtype == dtype && last.layer.is_like(&layer);
        if !self.kinds.last().is_some_and(is_same) {
            let scale_dtype = layer.job().and_then(Job::scale_dtype);
            self.kinds.push(Kind { layer, dtype, scale_dtype });
        }
        self.kinds.len() as u32 - 1
    }
}
