//! How fast layers in memory are quantized and decoded, beside a program that only reads and writes
//! as many bytes with as many threads, in one run and interleaved. Prints a JSON array.
//!
//!     cargo run --release -p arrowquant --example memory -- [SECTION [DTYPE]] [--quick]

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it prints what it measures")]
#![allow(unsafe_code, reason = "stores past the caches")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use arrow_array::{
    Array, ArrayRef, FixedSizeListArray, Float32Array, LargeBinaryArray, LargeListArray,
    RecordBatch, StringArray, cast::AsArray, types::Int64Type,
};
use arrow_buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, Field};
use arrowquant::dequantize::Target;
use arrowquant::scheme;
use arrowquant::settings::{self, GROUP_SIZE, SEARCH, SYMMETRIC, Settings};
use arrowquant::{Dequantizer, Monitor, Options, Plan, Quantizer, pool};
use serde_json::{Value, json};

const ROWS: usize = 4096;
const COLUMNS: usize = 14336;

/// Uniform numbers are as hard as any to a kernel without branches on values; seeded.
fn values(count: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let uniform = |word: u64| (word >> 40) as f32 / (1u64 << 24) as f32;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            0.1 * (uniform(state) + uniform(state.rotate_left(29)) - 1.0)
        })
        .collect()
}

fn bytes(dtype: &str, values: &[f32]) -> Vec<u8> {
    match dtype {
        "BF16" => {
            values.iter().flat_map(|v| half::bf16::from_f32(*v).to_bits().to_le_bytes()).collect()
        }
        "F16" => {
            values.iter().flat_map(|v| half::f16::from_f32(*v).to_bits().to_le_bytes()).collect()
        }
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

/// One layer of that dtype.
fn layer(dtype: &str, data: Buffer) -> RecordBatch {
    let offsets = OffsetBuffer::new(ScalarBuffer::from(vec![0, data.len() as i64]));
    let shape = [Some([ROWS, COLUMNS].map(|dimension| Some(dimension as i64)))];
    let columns: [(&str, ArrayRef); 4] = [
        ("layer_name", Arc::new(StringArray::from(vec!["w"]))),
        ("dtype", Arc::new(StringArray::from(vec![dtype]))),
        ("shape", Arc::new(LargeListArray::from_iter_primitive::<Int64Type, _, _>(shape))),
        ("data", Arc::new(LargeBinaryArray::new(offsets, data, None))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// `rows` layers of one dimension, as a table of vectors is, of the values again and again.
fn vectors(values: &[f32], rows: usize, columns: usize) -> RecordBatch {
    let item = Arc::new(Field::new_list_field(DataType::Float32, true));
    let values = values.iter().copied().cycle().take(rows * columns);
    let values = Arc::new(Float32Array::from_iter_values(values));
    let data = FixedSizeListArray::new(item, columns as i32, values, None);
    let names = StringArray::from_iter_values((0..rows).map(|row| format!("v{row}")));
    let columns: [(&str, ArrayRef); 2] =
        [("layer_name", Arc::new(names)), ("data", Arc::new(data))];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// Fill memory past the caches, where the CPU can: nothing is read from it first.
fn fill_past_caches(target: &mut [u8], byte: u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m128i, _mm_set1_epi8, _mm_sfence, _mm_stream_si128};
        // SAFETY: any bytes are a vector; every x86-64 CPU has these instructions of SSE2, and the
        // vectors are aligned parts of a borrowed slice.
        unsafe {
            let (head, vectors, tail) = target.align_to_mut::<__m128i>();
            head.fill(byte);
            for vector in vectors {
                _mm_stream_si128(vector, _mm_set1_epi8(byte as i8));
            }
            tail.fill(byte);
            _mm_sfence();
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    target.fill(byte);
}

/// Read all of `source` and write all of `target`, at the same pace, with `threads` threads.
fn stream(source: &[u8], target: &mut [u8], threads: usize, fill: fn(&mut [u8], u8)) {
    const BLOCK: usize = 4096;
    fn part(source: &[u8], target: &mut [u8], fill: fn(&mut [u8], u8)) {
        let blocks = source.len().div_ceil(BLOCK);
        let mut written = 0;
        for (at, block) in source.chunks(BLOCK).enumerate() {
            let mut lanes = [0u64; 32];
            for line in block.as_chunks::<256>().0 {
                for (lane, word) in lanes.iter_mut().zip(line.as_chunks::<8>().0) {
                    *lane |= u64::from_ne_bytes(*word);
                }
            }
            let end = target.len() * (at + 1) / blocks;
            fill(&mut target[written..end], lanes.iter().fold(0, |all, lane| all | lane) as u8);
            written = end;
        }
    }
    if threads == 1 {
        return part(source, target, fill);
    }
    let (in_step, out_step) =
        (source.len().div_ceil(threads).next_multiple_of(BLOCK), target.len().div_ceil(threads));
    std::thread::scope(|scope| {
        for (source, target) in source.chunks(in_step).zip(target.chunks_mut(out_step)) {
            scope.spawn(move || part(source, target, fill));
        }
    });
}

/// As in the Python module.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn seconds<T>(work: impl FnOnce() -> T) -> f64 {
    let start = Instant::now();
    black_box(work());
    start.elapsed().as_secs_f64()
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// Time `ours` against the streams of the same traffic, taking turns: through the caches and past
/// them, of which the faster one is the limit.
fn compare(
    rounds: usize,
    threads: usize,
    source: &[u8],
    written: usize,
    mut ours: impl FnMut(),
) -> (f64, f64, f64) {
    let mut target = vec![1u8; written];
    ours();
    let (mut times, mut limits, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let through = seconds(|| stream(source, &mut target, threads, |out, byte| out.fill(byte)));
        let past = seconds(|| stream(source, &mut target, threads, fill_past_caches));
        let limit = through.min(past);
        let time = seconds(&mut ours);
        times.push(time);
        limits.push(limit);
        ratios.push(limit / time);
    }
    (median(times), median(limits), median(ratios))
}

struct Case {
    name: &'static str,
    scheme: &'static str,
    symmetric: Option<bool>,
    group_size: Option<i64>,
}

fn options(case: &Case) -> Options {
    let mut said = Settings::default();
    said.set(GROUP_SIZE, case.group_size.map(settings::Value::Integer));
    said.set(SYMMETRIC, case.symmetric.map(settings::Value::Flag));
    said.set(SEARCH, Some(settings::Value::Choice("none")));
    Options::try_new(case.scheme, said).unwrap()
}

fn quantize(batch: &RecordBatch, case: &Case, threads: usize) -> RecordBatch {
    let (pool, monitor) = (pool::with_threads(threads).unwrap(), Monitor::default());
    let quantizer = Quantizer::try_new(&batch.schema(), options(case), Plan::default(), false);
    quantizer.unwrap().quantize(batch, &pool, &monitor).unwrap().quantized
}

/// Bytes of codes, scales, zero points and biases.
fn payload(quantized: &RecordBatch) -> usize {
    let data = quantized["data"].as_binary::<i64>().value_data().len();
    let list = |name: &str| quantized[name].as_list::<i64>().values().len();
    data + 4 * (list("scales") + list("biases")) + list("zero_points")
}

fn report(
    figures: &mut Vec<Value>,
    what: Value,
    bytes: usize,
    weights: usize,
    of: (f64, f64, f64),
) {
    let (seconds, limit, ratio) = of;
    let mut figure = what;
    let object = figure.as_object_mut().unwrap();
    object.insert("gb_per_s".into(), json!(bytes as f64 / seconds / 1e9));
    object.insert("gweights_per_s".into(), json!(weights as f64 / seconds / 1e9));
    object.insert("limit_gb_per_s".into(), json!(bytes as f64 / limit / 1e9));
    object.insert("of_limit".into(), json!(ratio));
    let of =
        |key: &str| figure[key].as_str().map_or_else(|| figure[key].to_string(), str::to_owned);
    let name = ["what", "dtype", "case", "group_size", "columns", "threads"].map(of).join(" ");
    eprintln!("{name}: {:.1} GB/s, {ratio:.2} of the limit", bytes as f64 / seconds / 1e9);
    figures.push(figure);
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let mut chosen = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let (only, dtype) = (chosen.next(), chosen.next());
    let dtypes = ["F32", "BF16", "F16"].into_iter();
    let dtypes = dtypes.filter(|name| dtype.as_deref().is_none_or(|only| only == *name));
    let rounds = if quick { 3 } else { 11 };
    let wanted = |section: &str| only.as_deref().is_none_or(|only| only == section);
    let case = |name, scheme, symmetric, group_size| Case {
        name,
        scheme,
        symmetric,
        group_size: Some(group_size),
    };
    let plain = |name| Case { name, scheme: name, symmetric: None, group_size: None };
    let cases = [
        case("int4 asymmetric", "int4", Some(false), 128),
        case("int4 symmetric", "int4", Some(true), 128),
        case("int8 asymmetric", "int8", Some(false), 128),
        case("int8 symmetric", "int8", Some(true), 128),
        case("int4 asymmetric", "int4", Some(false), 32),
        case("int8 symmetric", "int8", Some(true), 32),
        case("int2 asymmetric", "int2", Some(false), 128),
        case("int4 asymmetric", "int4", Some(false), -1),
        case("int8 symmetric", "int8", Some(true), -1),
    ];
    // Every other scheme, as it is by default.
    let integers = ["int8", "int4", "int2", scheme::NONE];
    let others = scheme::names().filter(|name| !integers.contains(name)).map(plain);
    let cases: Vec<Case> = cases.into_iter().chain(others).collect();
    let numbers = values(ROWS * COLUMNS);
    let float32 = layer("F32", Buffer::from_vec(numbers.clone()));
    let mut figures = Vec::new();
    for dtype in dtypes {
        let source = Buffer::from_vec(bytes(dtype, &numbers));
        let batch = layer(dtype, source.clone());
        for threads in [1, 2] {
            // The schemes beside integers convert F16 first, as they do BF16, and cost as much.
            let cases = cases.iter().enumerate().filter(|(at, case)| {
                dtype == "F32" || *at < 4 || (dtype == "BF16" && case.group_size.is_none())
            });
            for (_, case) in cases.filter(|_| wanted("quantize")) {
                let written = payload(&quantize(&batch, case, threads));
                let of = compare(rounds, threads, &source, written, || {
                    quantize(&batch, case, threads);
                });
                let mut what = json!({"what": "quantize", "dtype": dtype, "case": case.name,
                    "group_size": case.group_size, "threads": threads});
                if dtype != "F32" {
                    // As many weights, so the times' ratio is that of weights a second.
                    let time = |batch| seconds(|| quantize(batch, case, threads));
                    // Half of the rounds begin with either, since what comes second is often faster.
                    let ratio = |round| {
                        if round % 2 == 0 {
                            return time(&float32) / time(&batch);
                        }
                        let ours = time(&batch);
                        time(&float32) / ours
                    };
                    what["times_f32"] = json!(median((0..4 * rounds).map(ratio).collect()));
                }
                report(&mut figures, what, source.len(), numbers.len(), of);
            }
        }
    }
    let batch = float32;
    let decoded = cases
        .iter()
        .enumerate()
        .filter(|(at, case)| *at == 0 || *at == 3 || case.group_size.is_none());
    for (_, case) in decoded.filter(|_| wanted("dequantize")) {
        for threads in [1, 2] {
            let quantized = quantize(&batch, case, threads);
            let source = vec![1u8; payload(&quantized)];
            let of = compare(rounds, threads, &source, numbers.len() * 4, || {
                let (pool, monitor) = (pool::with_threads(threads).unwrap(), Monitor::default());
                let decoder = Dequantizer::try_new(&quantized.schema(), Target::Source, false);
                black_box(decoder.unwrap().dequantize(&quantized, &pool, &monitor).unwrap());
            });
            let what = json!({"what": "dequantize", "dtype": "F32", "case": case.name,
                "group_size": case.group_size, "threads": threads});
            report(&mut figures, what, numbers.len() * 4, numbers.len(), of);
        }
    }
    drop(batch);
    for columns in [384, 16].into_iter().filter(|_| wanted("vectors")) {
        let rows = if quick { 200_000 } else { 1_000_000 };
        let batch = vectors(&numbers, rows, columns);
        for threads in [1, 2] {
            let case = &cases[0];
            let source = batch["data"]
                .as_fixed_size_list()
                .values()
                .as_primitive::<arrow_array::types::Float32Type>()
                .values()
                .inner()
                .clone();
            let written = payload(&quantize(&batch, case, threads));
            let of = compare(rounds, threads, &source, written, || {
                quantize(&batch, case, threads);
            });
            let what = json!({"what": "vectors", "rows": rows, "columns": columns,
                "case": case.name, "threads": threads, "ns_per_row": of.0 * 1e9 / rows as f64});
            report(&mut figures, what, source.len(), rows * columns, of);
        }
    }
    println!("{}", serde_json::to_string_pretty(&figures).unwrap());
}
