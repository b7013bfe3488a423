# What doctor has a host's KVM run: the first steps of every kernel. It ends QEMU with status 33 through
# isa-debug-exit at 0xf4. `layer1/doctor/host_probe.py` holds the assembled bytes; a test assembles this anew.
# Real mode alone would prove little: some hosts' KVM only emulates it, and then fails at the first iret.
.set BASE, 0xf0000                      # where the ROM's last 64 KiB appear below 1 MiB
.text
.code16
start:
    cli
    lgdtl %cs:(gdtr - start)
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $0x08, $(BASE + protected - start)
.code32
protected:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $0x8000, %esp
    pushfl
    pushl $0x08
    pushl $(BASE + returned - start)
    iretl
returned:
    movl $0x1000, %edi                  # three page tables that map the first 2 MiB onto themselves
    xorl %eax, %eax
    movl $0xc00, %ecx
    rep stosl
    movl $0x2003, 0x1000
    movl $0x3003, 0x2000
    movl $0x83, 0x3000
    movl $0x20, %eax
    movl %eax, %cr4
    movl $0x1000, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    ljmp $0x18, $(BASE + long - start)
.code64
long:
    pushq $0x10
    pushq $0x8000
    pushfq
    pushq $0x18
    pushq $(BASE + done - start)
    iretq
done:
    movw $0xf4, %dx
    movb $0x10, %al
    outb %al, %dx
    hlt
.balign 8
gdt:
    .quad 0
    .quad 0x00cf9a000000ffff            # 0x08: code, 32 bits
    .quad 0x00cf92000000ffff            # 0x10: data
    .quad 0x00af9a000000ffff            # 0x18: code, 64 bits
gdtr:
    .word gdtr - gdt - 1
    .long BASE + gdt - start
