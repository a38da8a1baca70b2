// What the cores can do at most: multiply-adds on registers, no memory, one thread a core.
//
//     g++ -O3 -march=native -pthread benchmarks/peak.cpp -o /tmp/peak && /tmp/peak
//
// Needs AVX-512, and for bfloat16 AVX512_BF16. No matrix product or convolution can be faster; only
// a way that needs less arithmetic (Winograd's) can beat it on paper.

#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <thread>
#include <vector>

constexpr long steps = 50'000'000;
constexpr int chains = 16;  // more than a unit's latency times the units of a core

void multiply_add_float32() {
    __m512 sums[chains] = {}, a = _mm512_set1_ps(1.0f), b = a;
    for (long i = 0; i < steps; ++i) {
#pragma GCC unroll 16
        for (auto& sum : sums) {
            sum = _mm512_fmadd_ps(a, b, sum);
            asm volatile("" : "+v"(sum));  // not to be optimised away
        }
    }
}

#ifdef __AVX512BF16__
void multiply_add_bfloat16() {
    __m512 sums[chains] = {};
    const auto a = reinterpret_cast<__m512bh>(_mm512_set1_epi16(0x3f80)), b = a;  // 1.0
    for (long i = 0; i < steps; ++i) {
#pragma GCC unroll 16
        for (auto& sum : sums) {
            sum = _mm512_dpbf16_ps(sum, a, b);
            asm volatile("" : "+v"(sum));
        }
    }
}
#endif

void report(const char* name, void (*work)(), double operations) {
    const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
    double best = 0;
    for (int round = 0; round < 5; ++round) {
        const auto start = std::chrono::steady_clock::now();
        std::vector<std::thread> threads;
        for (unsigned i = 0; i < cores; ++i) threads.emplace_back(work);
        for (auto& thread : threads) thread.join();
        const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
        best = std::max(best, cores * steps * chains * operations / time.count() / 1e9);
    }
    std::printf("%-9s %6.0f GFLOP/s on %u cores\n", name, best, cores);
}

int main() {
    report("float32", multiply_add_float32, 2 * 16);
#ifdef __AVX512BF16__
    report("bfloat16", multiply_add_bfloat16, 2 * 32);
#endif
}
