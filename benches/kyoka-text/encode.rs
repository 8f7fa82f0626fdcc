//! A prompt of the bundled dataset as token ids, and back.

use criterion::{Criterion, criterion_group, criterion_main};
use kyoka_text::Tokenizer;

fn encode(c: &mut Criterion) {
    let folder = kyoka::dataset_folder("spoken-count").expect("the bundled data unpack");
    let tokenizer = Tokenizer::from_file(&folder.join("tokenizer.json")).expect("a tokenizer");
    let text = "How many of the pictures show the spoken item?";
    let ids = tokenizer.encode(text).expect("known characters");
    c.bench_function("tokenizer/encode_question", |b| b.iter(|| tokenizer.encode(text)));
    let page = [text; 200].join(" ");
    c.bench_function("tokenizer/encode_9_kB", |b| b.iter(|| tokenizer.encode(&page)));
    c.bench_function("tokenizer/decode_question", |b| b.iter(|| tokenizer.decode(&ids)));
}

criterion_group!(benches, encode);
criterion_main!(benches);
