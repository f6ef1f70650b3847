//! The kernels on a tile that stays in the second-level cache, with every instruction set of the
//! CPU: `cargo bench -p arrowquant`.

use std::hint::black_box;

use arrowquant::dtype::{Float, ScaleDtype};
use arrowquant::lanes::Level;
use arrowquant::scheme::{
    self, Bound, Bounds, Buffers, Choice, Codes, Encoded, Geometry, Grouping, Importance, Search,
    Spread, Sums, Tile, Values,
};
use arrowquant::settings::{GROUP_SIZE, SYMMETRIC, Settings, Value};
use criterion::{Bencher, Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;

const TILE: usize = 1 << 14;

struct Case {
    bound: Bound,
    values: Vec<f32>,
    halves: Vec<u8>,
    ranges: Vec<Bounds>,
    data: Vec<u8>,
    scales: Vec<f32>,
    zero_points: Vec<u8>,
    biases: Vec<f32>,
    /// How much each column matters.
    columns: Vec<f32>,
    buffers: Buffers,
}

impl Case {
    fn new(name: &str, group_size: usize, symmetric: bool) -> Self {
        let Ok(Choice::Encode(scheme)) = scheme::find(name) else { unreachable!() };
        let settings = Settings::default()
            .with(GROUP_SIZE, Value::Integer(group_size as i64))
            .with(SYMMETRIC, Value::Flag(symmetric));
        let geometry = Geometry { rows: 1, columns: TILE, source: Float::F32 };
        let bound = scheme.bind(&geometry, &settings).unwrap();
        let values: Vec<f32> = (0..TILE).map(|at| 0.1 * (at as f32 * 0.7).sin()).collect();
        let range = |group: &[f32]| Bounds {
            lo: group.iter().copied().fold(0.0, f32::min),
            hi: group.iter().copied().fold(0.0, f32::max),
        };
        let layout = bound.layout;
        Self {
            bound,
            ranges: values.chunks(group_size).map(range).collect(),
            halves: values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
            values,
            data: vec![0; layout.row_bytes],
            scales: vec![0.0; layout.scale_count().unwrap()],
            zero_points: vec![0; layout.zero_point_count().unwrap()],
            biases: vec![0.0; if layout.has_biases { TILE / group_size } else { 0 }],
            columns: (0..TILE).map(|at| 1.0 + (at as f32 * 0.3).cos().abs()).collect(),
            buffers: Buffers::default(),
        }
    }

    fn encode(&mut self, level: Level, source: Float, search: Search) -> [Sums; 1] {
        let Self { bound, values, halves, ranges, columns, .. } = self;
        let (values, scale_dtype) = match source {
            Float::BF16 => (Values::Halves(source, halves), ScaleDtype::BF16),
            _ => (Values::Float32(values), ScaleDtype::F32),
        };
        let grouping = Grouping { scale_dtype, ..bound.layout.grouping };
        let importance = match search {
            Search::Weighted => Importance { columns, rows: &[Spread::of(0.005)], first: 0 },
            _ => Importance::default(),
        };
        let tile = Tile {
            grouping,
            width: TILE,
            values,
            phase: 0,
            ranges,
            tensor_scale: 1.0,
            search,
            signed_scales: false,
            importance,
            source: &[],
        };
        let out = Encoded {
            data: &mut self.data,
            scales: &mut self.scales,
            zero_points: &mut self.zero_points,
            biases: &mut self.biases,
        };
        let mut sums = [Sums::default()];
        self.bound.codec.encode(level, &tile, out, &mut self.buffers, &mut sums, None);
        sums
    }

    fn decode(&mut self, level: Level) {
        let Self { bound, data, scales, zero_points, .. } = self;
        let codes = Codes {
            grouping: bound.layout.grouping,
            width: TILE,
            phase: 0,
            data,
            scales,
            zero_points,
            biases: &[],
            tensor_scale: 1.0,
        };
        self.bound.codec.decode(level, &codes, &mut self.buffers.codes, &mut self.values);
    }
}

fn kernels(criterion: &mut Criterion) {
    for (name, group_size, symmetric) in
        [("int4", 128, false), ("int8", 128, true), ("int4", 32, false), ("int2", 128, false)]
    {
        let mut case = Case::new(name, group_size, symmetric);
        for verb in ["encode", "encode BF16", "decode"] {
            let mut group = criterion.benchmark_group(format!("{verb} {name} {group_size}"));
            group.throughput(Throughput::Elements(TILE as u64));
            for level in Level::available() {
                group.bench_function(format!("{level:?}"), |bencher| match verb {
                    "encode" => encode(bencher, &mut case, level, (Float::F32, Search::None)),
                    "encode BF16" => encode(bencher, &mut case, level, (Float::BF16, Search::None)),
                    _ => bencher.iter(|| case.decode(level)),
                });
            }
            group.finish();
        }
    }
}

/// What searching for scales takes, beside rounding.
fn searches(criterion: &mut Criterion) {
    for (name, group_size, symmetric) in [
        ("int4", 128, true),
        ("int4", 64, false),
        ("mlx4", 64, false),
        ("nf4", 64, false),
        ("nvfp4", 16, false),
        ("mxfp4", 32, false),
        ("iq4_nl", 32, false),
        ("q4_k", 32, false),
    ] {
        let mut case = Case::new(name, group_size, symmetric);
        let mut group = criterion.benchmark_group(format!("search {name} {group_size}"));
        group.throughput(Throughput::Elements(TILE as u64));
        for level in Level::available() {
            for search in [Search::None, Search::Mse, Search::Weighted] {
                group.bench_function(format!("{level:?} {search:?}"), |bencher| {
                    encode(bencher, &mut case, level, (Float::F32, search));
                });
            }
        }
        group.finish();
    }
}

fn encode(bencher: &mut Bencher<'_>, case: &mut Case, level: Level, of: (Float, Search)) {
    bencher.iter(|| black_box(case.encode(level, of.0, of.1)));
}

criterion_group!(benches, kernels, searches);
criterion_main!(benches);
