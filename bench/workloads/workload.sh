# Loops, arithmetic, case, functions, pipes and subshells.
gcd() {
	a=$1 b=$2
	while [ "$b" -ne 0 ]; do
		t=$((a % b)) a=$b b=$t
	done
}
sum=0 i=0
while [ $i -lt 4000 ]; do
	gcd $((i * 17 + 3)) 360
	case $a in
	1) sum=$((sum + 1)) ;;
	*[02468]) sum=$((sum + a)) ;;
	esac
	i=$((i + 1))
done
i=0
while [ $i -lt 25 ]; do
	x=$(echo "$i" | { read -r y; echo $((y * y)); })
	sum=$((sum + x)) i=$((i + 1))
done
echo $sum
